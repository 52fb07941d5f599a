"""The HTTP contract: requests, answers and errors."""
