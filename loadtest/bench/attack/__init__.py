"""A client with one request a second beside attacks on the service."""
