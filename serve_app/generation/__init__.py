"""From a checked request to avatars or a queued task, free of HTTP and Serve's deployments."""
