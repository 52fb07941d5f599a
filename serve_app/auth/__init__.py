"""Authentication, rate limits and usage of tokens."""
