"""The HTTP contract: requests, answers, and the errors that both name."""
