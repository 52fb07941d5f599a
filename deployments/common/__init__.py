"""Shared by several stages: checksums, ONNX sessions, startup metrics."""
