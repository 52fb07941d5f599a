"""Draws portraits of people who do not exist: what everything is trained on."""
