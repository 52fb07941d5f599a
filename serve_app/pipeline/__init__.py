"""The order of the stages, and retries when a replica dies."""
