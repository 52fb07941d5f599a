"""Batches: up to a thousand requests that are added in chunks, queued within limits, and answered in one file."""
