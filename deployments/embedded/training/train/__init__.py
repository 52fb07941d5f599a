"""The training of each embedded model, and its export."""
