"""The parts of a face as networks find them: everywhere coarsely, about the eyes at the input's full size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from deployments.embedded.training.renderer.parts import PARTS
from deployments.embedded.training.train.networks import Residual

SIDE = 192  # pixels of the input
WHOLE = 128  # pixels to which the whole of it is brought
CELLS = 32  # a side of the parts of the whole
EYES = (48, 120, 32, 160)  # rows and columns of the input that hold eyes, brows and glasses, wherever the box fell
EYE_CELL = 2  # pixels of the input
EYE_CELLS = ((EYES[1] - EYES[0]) // EYE_CELL, (EYES[3] - EYES[2]) // EYE_CELL)
FINE, MIDDLE, COARSE, NEAR = 40, 80, 128, 48  # widths


class StyleFree(Residual):
    """A residual block whose first normalisation takes each picture's own contrast away (Pan et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.body[0] = nn.InstanceNorm2d(width, affine=True)


class WholeParser(nn.Module):
    """(n, 3, 192, 192) -> features (n, 128, 8, 8) and (n, 80, 16, 16), logits of the parts (n, PARTS, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, FINE, 3, stride=2, padding=1),
            StyleFree(FINE),
        )
        self.middle = nn.Sequential(nn.Conv2d(FINE, MIDDLE, 3, stride=2, padding=1), StyleFree(MIDDLE))
        self.coarse = nn.Sequential(nn.Conv2d(MIDDLE, COARSE, 3, stride=2, padding=1), StyleFree(COARSE), nn.ReLU())
        self.from_coarse, self.from_middle = nn.Conv2d(COARSE, FINE, 1), nn.Conv2d(MIDDLE, FINE, 1)
        self.from_fine = nn.Conv2d(FINE, FINE, 1)
        self.parser = nn.Sequential(
            nn.ReLU(), nn.Conv2d(FINE, FINE, 3, padding=1), nn.ReLU(), nn.Conv2d(FINE, PARTS, 3, padding=1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the class says."""
        fine = self.fine(F.interpolate(x, size=(WHOLE, WHOLE), mode="bilinear", align_corners=False))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        merged = F.interpolate(self.from_coarse(coarse), scale_factor=2.0) + self.from_middle(middle)
        merged = F.interpolate(merged, scale_factor=2.0) + self.from_fine(fine)
        return coarse, middle, self.parser(merged)


class EyeParser(nn.Module):
    """The strip about the eyes (n, 3, 72, 128) -> features (n, 48, 18, 32), logits of the parts (n, PARTS, 36, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, stride=EYE_CELL, padding=2), nn.ReLU())
        self.near = nn.Sequential(nn.Conv2d(24, NEAR, 3, stride=2, padding=1), StyleFree(NEAR), nn.ReLU())
        self.from_near, self.from_stem = nn.Conv2d(NEAR, 24, 1), nn.Conv2d(24, 24, 1)
        self.parser = nn.Sequential(
            nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, PARTS, 3, padding=1)
        )

    def forward(self, strip: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        stem = self.stem(strip)
        near = self.near(stem)
        merged = F.interpolate(self.from_near(near), scale_factor=2.0) + self.from_stem(stem)
        return near, self.parser(merged)


def eye_strip(x: Tensor) -> Tensor:
    """(n, c, 192, 192) -> (n, c, 72, 128)."""
    top, bottom, left, right = EYES
    return x[:, :, top:bottom, left:right]


def shares(parsed: Tensor) -> Tensor:
    """(n, PARTS, h, w) logits -> (n, PARTS - 1, h, w): how much of each part is in a cell."""
    return torch.softmax(parsed, 1)[:, 1:]
