"""Measurements: the answers, and the service's own metrics."""
