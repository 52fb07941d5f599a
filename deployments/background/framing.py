"""Which part of a generated image becomes the file where its shape differs, so that the face is whole on it.

The shape is met by cropping. Where it is so extreme that a crop would cut the face, the figure is shown smaller and its
background is extended. Both depend on the generated image alone: the same image gives the same file.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.types import Alpha, Box, Pixels

# The head around a detector's box, in parts of its sides: detectors leave out hair, ears and the end of the chin.
HAIR, EAR, CHIN = 0.25, 0.1, 0.08
BACKGROUND_ALPHA = 20  # up to this a pixel is background
SEAM = 0.06  # of the shorter side: where a figure is cut by the edge of the image, it fades out over this
EDGE_BLUR = 9  # pixels along the edge, over which its colours are averaged


class Frame(NamedTuple):
    """A part of a picture in its pixels; it may reach beyond the picture, on the sides or above."""

    left: float
    top: float
    width: float
    height: float

    def extends(self, size: tuple[int, int]) -> bool:
        """Whether it reaches beyond a picture of this width and height."""
        return self.width > size[0] + 1e-6 or self.height > size[1] + 1e-6


def frame_of(size: tuple[int, int], width: int, height: int, face: Box | None) -> Frame:
    """The part of a picture of `size` that becomes width x height.

    Without a face to keep, the largest part of that shape: both sides are cropped alike, or the bottom is, as faces are
    at the top. It is moved as far as the head needs it, and enlarged where the head does not fit.
    """
    scale = max(width / size[0], height / size[1])
    kept_width, kept_height = width / scale, height / scale
    if face is None:
        return Frame((size[0] - kept_width) / 2, 0.0, kept_width, kept_height)
    left, top, right, bottom = head_of(face, size)
    grown = max(1.0, (right - left) / kept_width, (bottom - top) / kept_height)
    kept_width, kept_height = kept_width * grown, kept_height * grown
    if kept_width > size[0]:
        x = (size[0] - kept_width) / 2
    else:
        x = _moved((size[0] - kept_width) / 2, kept_width, left, right)
    # Above a figure there is only background; below, it would end in the air.
    y = size[1] - kept_height if kept_height > size[1] else _moved(0.0, kept_height, top, bottom)
    return Frame(x, y, kept_width, kept_height)


def head_of(face: Box, size: tuple[int, int]) -> Box:
    """The head around a detected face, as far as the picture shows it."""
    left, top, right, bottom = face
    across, down = right - left, bottom - top
    return (
        min(max(0.0, left - EAR * across), size[0] - 1.0),
        min(max(0.0, top - HAIR * down), size[1] - 1.0),
        max(1.0, min(float(size[0]), right + EAR * across)),
        max(1.0, min(float(size[1]), bottom + CHIN * down)),
    )


def _moved(start: float, length: float, first: float, last: float) -> float:
    """The start next to `start` with which a part of this length has both `first` and `last` in it."""
    return min(max(start, last - length), first)


def extended(pixels: Pixels, alpha: Alpha, frame: Frame) -> tuple[Pixels, Alpha, Frame]:
    """The picture with its background extended as far as the frame reaches, its alpha, and the frame in it.

    `pixels` is (h, w, 3). The background goes on in the colours that it has at the edge.
    """
    width = alpha.shape[1]
    if frame.width > width:
        pad = math.ceil(max(-frame.left, frame.left + frame.width - width))
        pixels, alpha = _extended(pixels, alpha, pad, pad)
        return pixels, alpha, frame._replace(left=frame.left + pad)
    pad = math.ceil(-frame.top)
    turned, turned_alpha = _extended(pixels.transpose(1, 0, 2), alpha.T, pad, 0)
    return turned.transpose(1, 0, 2), turned_alpha.T, frame._replace(top=frame.top + pad)


def _extended(pixels: Pixels, alpha: Alpha, before: int, after: int) -> tuple[Pixels, Alpha]:
    """Columns are added before and after those that are there."""
    height, width = alpha.shape
    seam = max(1, round(min(height, width) * SEAM))
    shown = np.ones((height, width), np.float32)  # how much of the picture shows, beside its extended background
    ground = np.empty((height, width + before + after, 3), np.float32)
    ground[:, before : before + width] = pixels
    ramp = (np.arange(seam, dtype=np.float32) + 0.5) / seam
    if before:
        colours = _edge_colours(pixels[:, 0], alpha[:, 0])
        ground[:, :before] = colours[:, None]
        ground[:, before : before + seam] += (1 - ramp)[:, None] * (colours[:, None] - pixels[:, :seam])
        shown[:, :seam] *= ramp
    if after:
        colours = _edge_colours(pixels[:, -1], alpha[:, -1])
        ground[:, before + width :] = colours[:, None]
        end = before + width
        ground[:, end - seam : end] += (1 - ramp[::-1])[:, None] * (colours[:, None] - pixels[:, -seam:])
        shown[:, -seam:] *= ramp[::-1]
    faded = np.zeros((height, width + before + after), np.uint8)
    faded[:, before : before + width] = np.round(alpha * shown)
    return np.round(ground).clip(0, 255).astype(np.uint8), faded


def _edge_colours(edge: Pixels, alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(n, 3): the background along an edge; where a figure covers it, between what is beside the figure."""
    places = np.arange(len(edge))
    is_ground = alpha <= BACKGROUND_ALPHA
    if not is_ground.any():
        is_ground[:] = True
    ground = np.stack([np.interp(places, places[is_ground], edge[is_ground, channel]) for channel in range(3)], axis=1)
    padded = np.pad(ground, ((EDGE_BLUR // 2, EDGE_BLUR // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, EDGE_BLUR, axis=0)
    return np.asarray(windows.mean(axis=2), np.float32)
