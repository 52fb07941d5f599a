"""Benchmarks that decisions are based on. Each is a runnable module that prints a table and stops what it started."""
