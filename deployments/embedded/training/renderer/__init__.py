"""Renders portraits of people who do not exist: the training data of all models."""
