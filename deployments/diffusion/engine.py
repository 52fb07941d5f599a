"""The engine: a thread of its own that draws waiting rows, batch after batch; futures towards asyncio."""

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

from deployments.diffusion.scheduler import Row, RowScheduler
from deployments.errors import DeadlineError
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, Pixels


class DiffusionModel(Protocol):
    """What the engine draws with."""

    def group(self, spec: AvatarSpec) -> Hashable:
        """Rows of one group can be drawn in the same batch."""

    def draw(self, rows: Sequence[Row], stop: Callable[[], bool]) -> list[Pixels] | None:
        """Draw one picture a row, in order; None when `stop()` turned true between two steps."""


class DiffusionEngine:
    """Draws rows on its own thread, so that the event loop of the replica stays free.

    A row that is cancelled leaves the queue; a batch in which nobody waits any more stops before its next step.
    Where a batch of several rows fails, each is drawn alone, so that no request fails for its neighbour.
    """

    def __init__(self, models: Mapping[str, DiffusionModel], max_rows: int) -> None:
        self._models = models
        self._scheduler = RowScheduler(max_rows)
        self._changed = threading.Condition()
        self._closing = False
        self._ready_at = time.time()
        self._thread = threading.Thread(target=self._run, name="diffusion-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, spec: AvatarSpec, face: FaceEmbedding) -> Row:
        """Queue one image; its `future` gives the picture, or DeadlineError when its time is over."""
        row = Row(spec, face.vector, (spec.model, self._models[spec.model].group(spec)), time.time())
        with self._changed:
            if self._closing:
                row.future.cancel()
            else:
                self._scheduler.add(row)
                self._changed.notify()
        return row

    def close(self) -> None:
        """Cancel what waits, stop what runs before its next step, and wait for the thread."""
        with self._changed:
            self._closing = True
            for row in self._scheduler.drain():
                row.future.cancel()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while rows := self._next_batch():
            self._draw(rows)

    def _next_batch(self) -> list[Row]:
        """Wait for rows; empty only when the engine closes."""
        with self._changed:
            while not self._closing:
                for row in self._scheduler.drop_expired(time.time()):
                    _fail(row, DeadlineError("The deadline passed while the image waited its turn."))
                if rows := self._scheduler.next_batch():
                    return rows
                self._changed.wait()
        return []

    def _draw(self, rows: Sequence[Row]) -> None:
        def stop() -> bool:
            now = time.time()
            return self._closing or all(row.abandoned or row.spec.deadline <= now for row in rows)

        try:
            pictures = self._models[rows[0].spec.model].draw(rows, stop)
        except Exception as error:  # whatever it is belongs to those who wait: the thread must go on
            self._draw_alone(rows, error)
            return
        if pictures is None:
            for row in rows:
                if not self._closing:
                    _fail(row, DeadlineError("The deadline passed while the image was drawn."))
                row.future.cancel()  # leaves a future that is done as it is
            return
        for row, pixels in zip(rows, pictures, strict=True):
            self._finish(row, pixels)

    def _draw_alone(self, rows: Sequence[Row], error: Exception) -> None:
        if len(rows) == 1:
            _fail(rows[0], error)
            return
        for row in rows:
            self._draw([row])

    def _finish(self, row: Row, pixels: Pixels) -> None:
        if row.future.set_running_or_notify_cancel():
            startup_s = max(0.0, self._ready_at - row.spec.submitted_at)
            row.future.set_result(GeneratedImage(pixels, time.time() - row.arrived_at, startup_s))


def _fail(row: Row, error: Exception) -> None:
    # A cancelled future takes no result: somebody may have left since we looked.
    if row.future.set_running_or_notify_cancel():
        row.future.set_exception(error)
