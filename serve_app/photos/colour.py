"""Colours of AVIF and HEIC files that name theirs by numbers (ITU-T H.273) and have no profile, turned into sRGB."""

import numpy as np
import numpy.typing as npt

from deployments.types import Pixels

SEARCHED_BYTES = 1 << 20  # what says it is in the first boxes of a file
_BOX = b"colrnclx"
# From linear RGB of Display P3 and of BT.2020 to that of sRGB; all have the white of D65.
_TO_SRGB = {
    12: ((1.22494, -0.22494, 0.0), (-0.04206, 1.04206, 0.0), (-0.01964, -0.07864, 1.09828)),
    9: ((1.66049, -0.58764, -0.07285), (-0.12455, 1.13290, -0.00835), (-0.01815, -0.10058, 1.11873)),
}
# Curves that are that of sRGB or near it; those of high dynamic range are not.
_NEAR_SRGB = frozenset({1, 6, 13, 14, 15})


def wide_primaries(data: bytes) -> int | None:
    """The number of the primaries of a file that has wider ones than sRGB and a curve near its own; else None."""
    at = data.find(_BOX, 0, SEARCHED_BYTES)
    if at < 0:
        return None
    named = data[at + len(_BOX) : at + len(_BOX) + 4]
    primaries, curve = int.from_bytes(named[:2], "big"), int.from_bytes(named[2:], "big")
    return primaries if primaries in _TO_SRGB and curve in _NEAR_SRGB else None


def to_srgb(pixels: Pixels, primaries: int) -> Pixels:
    """(h, w, 3) with these primaries -> the same colours in sRGB, clipped to what it has."""
    matrix = np.array(_TO_SRGB[primaries], np.float32)
    bands = np.array_split(pixels, max(1, len(pixels) // 64))
    return np.concatenate([_encoded(_LINEAR[band] @ matrix.T) for band in bands])


def _encoded(linear: npt.NDArray[np.float32]) -> Pixels:
    clipped = linear.clip(0, 1)
    curved = np.where(clipped <= 0.0031308, clipped * 12.92, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return np.round(curved * 255).astype(np.uint8)


_LEVELS = np.arange(256, dtype=np.float32) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
