"""Turns requests into avatars or queued tasks, without HTTP and Serve's deployments."""
