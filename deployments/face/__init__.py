"""Face detection and embedding."""
