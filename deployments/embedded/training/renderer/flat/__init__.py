"""Flat drawings in human proportions: a second look of photos in the face encoder's training.

A drawing shows the person with the nearest options that it has (`simplified`).
"""
