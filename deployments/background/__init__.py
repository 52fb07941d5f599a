"""Background removal and post-processing of generated images."""
