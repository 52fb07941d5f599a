"""What the embedded face encoder reads, on a rendering that no training saw."""
