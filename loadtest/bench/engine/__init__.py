"""Continuous batching against other queues."""
