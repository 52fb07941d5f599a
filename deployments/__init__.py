"""The model stages of Face Avatar. They know nothing of HTTP, tasks or storage."""
