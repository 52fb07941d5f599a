"""What a GPU makes of the generator."""
