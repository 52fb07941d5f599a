"""Whether what was trained draws the right person."""
