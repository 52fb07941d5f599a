"""Shaders: cartoons drawn again in another style, whoever they show."""
