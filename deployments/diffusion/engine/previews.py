"""Small pictures of images that are half done, for those who want to see them become clear.

They cost the engine's thread nothing: they are made on another one, of what the last step left behind.
"""

import base64
import io
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image

from deployments.diffusion.engine.denoiser import OutOfMemoryError, Previewing
from deployments.diffusion.engine.scheduler import Row
from deployments.errors import DeviceLostError
from deployments.types import ImagePreview, Pixels

EVERY_S = 0.5  # of one image
MAX_SHARE = 0.02  # of the time, also of a step's, that previews may take of a processor
JPEG_QUALITY = 80


class Previewer:
    """Makes the previews that are due, within MAX_SHARE of a processor's time."""

    def __init__(self) -> None:
        self._shown: dict[Row, tuple[float, int]] = {}  # when, and after how many steps
        self._paused_until = 0.0

    def due(self, samples: Sequence[tuple[Row, Any]]) -> list[ImagePreview]:
        """Of rows that have made a step since their last preview, with their samples. For a thread: it waits."""
        now, begun_s = time.monotonic(), time.thread_time()
        self._shown = {row: self._shown[row] for row, _ in samples if row in self._shown}
        if now < self._paused_until:
            return []
        previews = [
            preview
            for row, sample in samples
            if self._is_due(row, now) and (preview := self._preview(row, sample, now)) is not None
        ]
        self._paused_until = now + (time.thread_time() - begun_s) / MAX_SHARE
        return previews

    def _is_due(self, row: Row, now: float) -> bool:
        shown_at, steps = self._shown.get(row, (0.0, 0))
        return row.steps_done > steps and now - shown_at >= EVERY_S

    def _preview(self, row: Row, sample: Any, now: float) -> ImagePreview | None:
        """None where its model shows none, or cannot just now: the engine will learn of that by itself."""
        spec, step = row.spec, row.steps_done
        if not isinstance(row.denoiser, Previewing):
            return None
        try:
            pixels = row.denoiser.preview(sample)
        except (OutOfMemoryError, DeviceLostError):
            return None
        self._shown[row] = now, step
        if pixels is None:
            return None
        return ImagePreview(spec.task_id, spec.image_index, step, spec.num_inference_steps, jpeg_url(pixels))


def jpeg_url(pixels: Pixels) -> str:
    """A data URL of a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
