"""The whole service beside three plain ways to serve the same model."""
