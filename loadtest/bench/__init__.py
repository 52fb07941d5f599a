"""Benchmarks behind decisions: each is a module to run, prints a table, and ends what it started."""
