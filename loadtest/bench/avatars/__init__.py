"""Whether the embedded models draw the right person."""
