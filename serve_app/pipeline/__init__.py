"""The order of the stages, and what is done again when a replica dies."""
