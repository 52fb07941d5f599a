"""Labels of five classes, which the encoder of 112 pixels was trained on; `parts` has those of today's views."""

SKIN, HAIR, BEARD, GLASSES = 1, 2, 3, 4  # of a label picture; 0 is everything else
CLASSES = 5
