"""Background removal and the finishing of pictures."""
