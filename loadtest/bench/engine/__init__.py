"""Continuous batching compared with other ways of batching."""
