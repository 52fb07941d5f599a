"""`AvatarWorker`: queued tasks, and what is done periodically beside them."""
