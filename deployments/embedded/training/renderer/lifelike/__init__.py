"""The photo look: a head as a height field with albedo and strand hair, lit, turned and photographed."""
