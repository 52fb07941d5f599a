"""The cartoon with every trait of a portrait, which the generator learns to draw.

What only the seeds `identity` and `texture` tell is left out: the code of a face does not have it.
"""
