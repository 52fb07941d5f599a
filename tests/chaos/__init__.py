"""Kills the processes of a service while it works: `python -m tests.chaos`."""
