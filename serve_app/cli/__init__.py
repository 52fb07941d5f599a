"""`face-avatar`, the command line."""
