"""The whole service compared with three simple servers of the same model."""
