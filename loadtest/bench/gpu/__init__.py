"""The generator's speed on a GPU."""
