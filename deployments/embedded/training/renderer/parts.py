"""What a pixel shows: the values of label maps."""

BACKGROUND = 0  # clothes and what lies before the person, too
SKIN, HAIR, BEARD, FRAME, LENS, HAT, BROW, IRIS, SCLERA, LIPS, TEETH = range(1, 12)  # a clear lens shows what it covers
PARTS = 12
UNTOLD = 255  # in place of a label where nobody knows
