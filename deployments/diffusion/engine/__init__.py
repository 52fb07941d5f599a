"""Continuous batching: which rows step together, on a thread of its own. Knows neither Ray nor the model."""
