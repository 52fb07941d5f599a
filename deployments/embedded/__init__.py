"""The models that ship with the package, and the training that made them."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
