"""The queue compared with Celery."""
