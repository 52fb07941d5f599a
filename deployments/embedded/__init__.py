"""The models that ship with the package, and the training that made them."""
