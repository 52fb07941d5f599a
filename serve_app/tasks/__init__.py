"""Tasks: their records and queue in Redis."""
