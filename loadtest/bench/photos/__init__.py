"""The largest photos of each format, and what a decoder process needs for them."""
