"""Evaluation of the trained models."""
