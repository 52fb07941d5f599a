"""The engine: a thread of its own on which the rows of many requests share every denoising step.

A row joins before the next step and leaves after its last, whatever the others do. Futures towards asyncio.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from deployments.diffusion.engine.denoiser import Denoiser, OutOfMemoryError
from deployments.diffusion.engine.latency_model import StepTimes
from deployments.diffusion.engine.scheduler import Bucket, Outlook, Row, RowScheduler
from deployments.errors import DeadlineError
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, ImageProgress, Pixels


class Observer(Protocol):
    """Who is told what the engine does. Called on its thread: it must return at once."""

    def stepped(self, rows: Sequence[Row], seconds: float, waiting: Mapping[Bucket, int]) -> None:
        """These rows made a step together; `waiting` counts all rows that are not done."""


class DiffusionEngine:
    """Makes step after step with the rows that the scheduler chooses for each.

    A row that is cancelled, or late, leaves before the next step. A step that fails is made again row by row, so that
    no request fails for its neighbour; one that does not fit into memory, with fewer rows; a picture that does not,
    after the next step. Where a device can decode beside a step, a second thread does, so that no row waits for the
    picture of another one.
    """

    def __init__(self, times: StepTimes, ageing: float, observer: Observer | None = None) -> None:
        self._times = times
        self._observer = observer
        self._scheduler = RowScheduler(ageing)
        self._samples: dict[Row, Any] = {}
        self._drawn: deque[tuple[Row, Any]] = deque()  # all steps made; with its sample
        self._decoding: set[Row] = set()
        self._changed = threading.Condition()
        self._closing = False
        self._ready_at = time.time()  # whoever came before waited for this replica
        self._beside = ThreadPoolExecutor(1, "diffusion-decoder")
        self._thread = threading.Thread(target=self._run, name="diffusion-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, spec: AvatarSpec, face: FaceEmbedding, denoiser: Denoiser) -> Row:
        """Queue one image; its `future` gives the picture, or DeadlineError when its time is over."""
        row = Row(spec, face.vector, denoiser, (spec.model, denoiser.bucket(spec)), time.time())
        with self._changed:
            if self._closing:
                row.future.cancel()
            else:
                self._scheduler.add(row)
                self._changed.notify()
        return row

    def progress(self) -> list[ImageProgress]:
        """How far all images are that are not drawn. Any thread may ask; no step waits for the answer."""
        with self._changed:
            scheduler, drawn = self._scheduler.copy(), [*self._decoding, *(row for row, _ in self._drawn)]
        ahead = dict.fromkeys(drawn, Outlook(0.0, 0)) | scheduler.forecast(time.time(), self._times)
        return [_progress(row, outlook) for row, outlook in ahead.items()]

    def close(self) -> None:
        """Cancel all rows before their next step, and wait for the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._beside.shutdown()

    def _run(self) -> None:
        while self._wait_for_work():
            if rows := self._next_rows():
                self._advance(rows)
            self._decode_drawn()

    def _wait_for_work(self) -> bool:
        """False when the engine closes."""
        with self._changed:
            while not (self._closing or len(self._scheduler) or self._drawn):
                self._changed.wait()
            if self._closing:
                for row in [*self._scheduler.drain(), *(row for row, _ in self._drawn), *self._decoding]:
                    row.future.cancel()
        return not self._closing

    def _next_rows(self) -> Sequence[Row]:
        now = time.time()
        with self._changed:
            expired = self._scheduler.drop_expired(now)
            rows = self._scheduler.next_batch(now, self._times)
            kept = set(self._scheduler.rows)
        for row in expired:
            _fail(row, DeadlineError("The deadline passed before the image was done."))
        for row in self._samples.keys() - kept:
            del self._samples[row]
        return rows

    def _decode_drawn(self) -> None:
        """All beside the next steps, or one before them, so that they do not wait for many."""
        while drawn := self._next_drawn():
            row, sample, beside = drawn
            if not beside:
                self._finish(row, sample)
                return
            self._beside.submit(self._finish, row, sample, beside=True)

    def _next_drawn(self) -> tuple[Row, Any, bool] | None:
        """With its sample, and whether it is decoded beside a step: only where there will be one."""
        with self._changed:
            if not self._drawn:
                return None
            row, sample = self._drawn.popleft()
            self._decoding.add(row)
            return row, sample, row.denoiser.decodes_beside and len(self._scheduler) > 0

    def _advance(self, rows: Sequence[Row]) -> None:
        """One step for these rows; one that cannot make it fails, and leaves."""
        bucket, width = rows[0].bucket, sum(row.width for row in rows)
        started = time.perf_counter()
        try:
            rows[0].denoiser.step([self._sample(row) for row in rows])
        except OutOfMemoryError as error:
            self._times.out_of_memory(bucket, width)
            self._lacked_memory(rows, error)
        except Exception as error:  # whatever it is belongs to those who wait: the thread must go on
            self._step_alone(rows, error)
        else:
            seconds = time.perf_counter() - started
            self._times.add(bucket, width, seconds)
            self._stepped(rows, seconds)

    def _sample(self, row: Row) -> Any:
        if row not in self._samples:
            self._samples[row] = row.denoiser.start(row.spec, row.face)
            row.joined_at = time.time()
        return self._samples[row]

    def _stepped(self, rows: Sequence[Row], seconds: float) -> None:
        for row in rows:
            row.steps_done += 1
            row.memory_errors = 0
        done = [row for row in rows if not row.steps_left]
        with self._changed:
            self._drawn.extend((row, self._samples.pop(row)) for row in done)
            self._scheduler.charge(rows, seconds, time.time())
            self._scheduler.remove(done)
            waiting = self._scheduler.waiting()
        if self._observer is not None:
            self._observer.stepped(rows, seconds, waiting)

    def _step_alone(self, rows: Sequence[Row], error: Exception) -> None:
        if len(rows) == 1:
            self._give_up(rows[0], error)
            return
        for row in rows:
            self._advance([row])

    def _lacked_memory(self, rows: Sequence[Row], error: OutOfMemoryError) -> None:
        """They try again with fewer beside them; one that is alone, once more."""
        if len(rows) == 1 and _lacks_it_again(rows[0]):
            self._give_up(rows[0], error)

    def _give_up(self, row: Row, error: Exception) -> None:
        with self._changed:
            self._scheduler.remove([row])
        self._samples.pop(row, None)
        _fail(row, error)

    def _finish(self, row: Row, sample: Any, beside: bool = False) -> None:
        if row.abandoned:
            self._decoded(row)
            return
        try:
            pixels = row.denoiser.decode(sample, beside)
        except Exception as error:
            if isinstance(error, OutOfMemoryError) and not _lacks_it_again(row):
                self._decode_later(row, sample)
            else:
                self._decoded(row)
                _fail(row, error)
        else:
            self._decoded(row)
            _answer(row, pixels, self._ready_at)

    def _decode_later(self, row: Row, sample: Any) -> None:
        with self._changed:
            self._decoding.remove(row)
            self._drawn.append((row, sample))
            self._changed.notify()

    def _decoded(self, row: Row) -> None:
        """From here on it is not among those that are not drawn: whoever gets its answer may ask."""
        with self._changed:
            self._decoding.remove(row)


def _lacks_it_again(row: Row) -> bool:
    """Whether a row that lacks memory, though it is alone, did so the last time too: then it can never have enough."""
    row.memory_errors += 1
    return row.memory_errors > 1


def _progress(row: Row, outlook: Outlook) -> ImageProgress:
    spec = row.spec
    return ImageProgress(
        spec.task_id,
        spec.image_index,
        row.steps_done,
        spec.num_inference_steps,
        outlook.eta_s,
        outlook.queue_position,
    )


def _answer(row: Row, pixels: Pixels, ready_at: float) -> None:
    if row.future.set_running_or_notify_cancel():
        startup_s = max(0.0, ready_at - row.spec.submitted_at)
        row.future.set_result(GeneratedImage(pixels, time.time() - row.arrived_at, startup_s))


def _fail(row: Row, error: Exception) -> None:
    # A cancelled future takes no result: somebody may have left since we looked.
    if row.future.set_running_or_notify_cancel():
        row.future.set_exception(error)
