"""Data sets of drawn portraits, and the words for them."""
