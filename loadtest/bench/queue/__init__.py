"""The queue against Celery."""
