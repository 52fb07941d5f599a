"""`AvatarWorker`: runs queued tasks and periodic tasks."""
