"""Data sets of rendered portraits, and their captions."""
