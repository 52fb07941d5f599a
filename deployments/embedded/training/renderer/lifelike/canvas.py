"""The layers that a head is composed of, back to front, before it is lit."""

import numpy as np

from deployments.embedded.training.renderer.lifelike.grid import SIDE, Field


class Canvas:
    """Albedo in linear light, cover, height, gloss, share of skin, direction of strands and labels, per pixel."""

    def __init__(self) -> None:
        self.colour = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        self.cover = np.zeros((SIDE, SIDE), dtype=np.float32)
        self.z = np.zeros((SIDE, SIDE), dtype=np.float32)
        self.gloss = np.zeros((SIDE, SIDE), dtype=np.float32)
        self.skin = np.zeros((SIDE, SIDE), dtype=np.float32)
        self.glow = np.zeros((SIDE, SIDE), dtype=np.float32)  # white light that a surface mirrors, whatever the lamp
        self.strand = np.zeros((SIDE, SIDE, 3), dtype=np.float32)
        self.labels = np.zeros((SIDE, SIDE), dtype=np.uint8)

    def part(self, box: tuple[slice, slice]) -> "Canvas":
        """A canvas of the same memory: what is laid on it lies on this one."""
        part = object.__new__(Canvas)
        for name, field in vars(self).items():
            setattr(part, name, field[box])
        return part

    def lay(
        self,
        alpha: Field,
        colour: Field,
        part: int | None,
        z: Field | None = None,
        gloss: float | Field = 0.0,
        skin: float = 0.0,
        strand: Field | None = None,
    ) -> None:
        """One layer over those before; `part` None keeps the labels, `z` None the height."""
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        if not len(rows):
            return
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        share = alpha[box]
        thick = share[..., None]
        paint = colour[box] if colour.ndim == 3 else colour
        self.colour[box] += (paint - self.colour[box]) * thick
        self.cover[box] += (1 - self.cover[box]) * share
        self.gloss[box] += ((gloss[box] if isinstance(gloss, np.ndarray) else gloss) - self.gloss[box]) * share
        self.skin[box] += (skin - self.skin[box]) * share
        self.strand[box] += ((0.0 if strand is None else strand[box]) - self.strand[box]) * thick
        self.glow[box] *= 1 - share
        if z is not None:
            self.z[box] += (z[box] - self.z[box]) * share
        if part is not None:
            self.labels[box][share > 0.5] = part

    def tint(self, factors: Field) -> None:
        """Multiplies the albedo by (SIDE, SIDE) or (SIDE, SIDE, 3)."""
        self.colour *= factors if factors.ndim == 3 else factors[..., None]
