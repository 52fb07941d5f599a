"""Continuous batching: chooses the rows of each step and runs them on one thread. Imports neither Ray nor torch."""
