"""Sandboxed child processes for code that parses hostile bytes."""
