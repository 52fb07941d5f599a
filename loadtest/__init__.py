"""Load tests: what many clients at once do to the service."""
