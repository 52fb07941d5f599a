"""Continuous batching: one thread on which the rows of many requests share every denoising step.

A row joins before the next step and leaves after its last one, independently of the others. Results are futures.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.diffusion.engine.denoiser import Denoiser, OutOfMemoryError, StepInFlight
from deployments.diffusion.engine.hang_detector import LOOK_EVERY_S, HangDetector
from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket, Row, RowEta, RowScheduler, batch_size_of
from deployments.errors import DeadlineError, DeviceLostError, NotBegunError
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, ImageProgress, Pixels

IDLE_AFTER_S = 5.0  # without a row; a shorter pause between two requests is not used
UNUSED_EVERY_S = 0.02  # looks whether a row that was given up still computes
PREPARED_AT_ONCE = 2  # a very long prompt must not hold up all others
PREPARED_TOGETHER = 4  # more would hold up the first of them, and take more memory
# Steps that are launched while one runs, so that the device never waits for the host. With more, new rows join later.
LAUNCHED_AHEAD = 1

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Receives the events of the engine. Called on the engine thread: must return at once."""

    def joined(self, rows: Sequence[Row]) -> None:
        """The first step of these rows was launched."""

    def stepped(self, launch: "Launch", seconds: float, waiting: Mapping[Bucket, int]) -> None:
        """A step has ended; `waiting` counts all rows with steps left by bucket."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A step, the rows that make it, and how many of the denoiser's batch each of them takes."""

    rows: Sequence[Row]
    step: StepInFlight
    sizes: Sequence[int]

    @property
    def batch_size(self) -> int:
        """Rows of the denoiser's batch."""
        return sum(self.sizes)


class DiffusionEngine:
    """Makes step after step, each with the rows that the scheduler chooses.

    Cancelled and expired rows leave before the next step. A failed step is repeated row by row, so that no request
    fails because of another one; a step that runs out of memory is repeated with fewer rows, and a decoding that does,
    after the next step. A second thread decodes during steps, so that no row waits for the decoding of another one.

    Where steps run on a device of their own, it does not wait for the host: rows are prepared on other threads before
    they are admitted, and a step is launched while the one before it runs. What a row has left to do is known at once,
    how long a step took only when it has ended.

    When the device is lost, or work on it hangs, all rows fail with DeviceLostError and the engine ends.
    """

    def __init__(
        self,
        latency_model: LatencyModel,
        ageing: float,
        observer: Observer | None = None,
        hangs: HangDetector | None = None,
    ) -> None:
        self._latency_model = latency_model
        self._observer = observer
        self._hangs = hangs or HangDetector()
        self._scheduler = RowScheduler(ageing)
        self._preparing: dict[Row, None] = {}  # in the order in which they came
        self._samples: dict[Row, Any] = {}
        self._in_flight: deque[Launch] = deque()  # only the engine's thread changes it
        self._to_decode: deque[tuple[Row, Any]] = deque()  # rows whose steps are all launched, with their samples
        self._decoding: set[Row] = set()
        self._idle_work: deque[Iterator[None]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._lost: DeviceLostError | None = None
        self._ended = threading.Event()
        self._ready_at = time.time()  # requests submitted before it waited for this replica to start
        self._preparers = ThreadPoolExecutor(PREPARED_AT_ONCE, "diffusion-preparation")
        self._decoder = ThreadPoolExecutor(1, "diffusion-decoder")
        self._thread = threading.Thread(target=self._run, name="diffusion-engine", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="diffusion-hangs", daemon=True).start()

    @property
    def alive(self) -> bool:
        """False once the engine's thread has ended or the device is lost."""
        return self._thread.is_alive() and self._lost is None

    def submit(self, spec: AvatarSpec, face: FaceEmbedding, denoiser: Denoiser) -> Row:
        """Queue one image; its `future` yields it. Raises there: DeadlineError; NotBegunError; DeviceLostError."""
        row = Row(spec, face, denoiser, (spec.model, denoiser.bucket(spec, face)), time.time())
        with self._changed:
            if self._lost is not None:
                row.future.set_exception(self._lost)
            elif self._closing:
                row.future.cancel()
            elif denoiser.is_asynchronous:
                self._preparing[row] = None
                self._preparers.submit(self._prepare, row)
            else:
                self._admit(row)
        return row

    def when_idle(self, work: Iterator[None]) -> None:
        """Advance `work` to its end, one item at a time, while there are no rows: never beside a step.

        A row that arrives meanwhile waits for the current item. An error ends the work and is logged.
        """
        with self._changed:
            self._idle_work.append(work)
            self._changed.notify()

    def progress(self) -> list[ImageProgress]:
        """Progress of all unfinished images. Thread-safe; delays no step."""
        with self._changed:
            scheduler = self._scheduler.copy(self._preparing)
            stepped = [*self._decoding, *(row for row, _ in self._to_decode)]
        etas = dict.fromkeys(stepped, RowEta(0.0, 0)) | scheduler.forecast(time.time(), self._latency_model)
        return [_progress(row, eta) for row, eta in etas.items()]

    def previewed(self) -> list[tuple[Row, Any]]:
        """The rows between two steps that want previews, with their samples. Thread-safe; delays no step."""
        samples = list(self._samples.items())  # at once: another thread adds to them
        return [(row, sample) for row, sample in samples if row.spec.previews and row.steps_done]

    def await_unused(self, row: Row) -> None:
        """Wait until nothing computes with the row's model for it; where the row was given up, a step or more may."""
        while self._is_using(row) and not self._ended.wait(UNUSED_EVERY_S):
            pass

    def _is_using(self, row: Row) -> bool:
        with self._changed:
            launched = [each for launch in tuple(self._in_flight) for each in launch.rows]
            to_decode = [each for each, _ in self._to_decode]
            return row in [*self._preparing, *self._scheduler.rows, *launched, *to_decode, *self._decoding]

    def close(self) -> None:
        """Cancel all rows before their next step, and wait for the threads, unless the device is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._ended.set()
        is_responding = self._lost is None  # else a thread may wait for the device for ever
        if is_responding:
            self._thread.join()
        for pool in (self._preparers, self._decoder):
            pool.shutdown(wait=is_responding)

    def _run(self) -> None:
        while self._wait_for_work():
            self._work()
        self._in_flight.clear()
        self._samples.clear()

    def _work(self) -> None:
        """A function of its own: while the loop waits, no name of its may keep the last rows, and so their model."""
        if rows := self._next_rows():
            self._advance(rows)
        elif self._is_idle():
            self._work_idly()
        self._await_steps(LAUNCHED_AHEAD if rows and rows[0].denoiser.is_asynchronous else 0)
        self._decode_finished()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            if (hung_s := self._hangs.hung_s()) is not None:
                self._lose_device(DeviceLostError(f"work on the device has not ended for {hung_s:.0f} s"))

    def _lose_device(self, error: DeviceLostError) -> None:
        """Fail all rows, and end: the device would fail all later ones, too."""
        with self._changed:
            self._lost = error
            self._closing = True
            rows = self._drain()
            self._changed.notify()
        self._ended.set()
        for row in rows:
            self._fail(row, error)

    def _drain(self) -> list[Row]:
        """Take out all unfinished rows. Called with the lock."""
        to_decode = [row for row, _ in self._to_decode]
        rows = [*self._preparing, *self._scheduler.drain(), *to_decode, *self._decoding]
        for held in (self._preparing, self._to_decode, self._decoding):
            held.clear()
        return rows

    def _prepare(self, row: Row) -> None:
        """Make a row's sample, then admit it. Without memory for it the first step tries again, and handles that."""
        samples = {}
        try:
            if not row.is_cancelled:
                with self._timing([row]):
                    self._prepare_with_others(row)
                    samples[row] = row.denoiser.start(row.spec, row.face)
        except DeviceLostError as error:
            self._lose_device(error)
        except OutOfMemoryError as error:
            log.info("a row could not be prepared ahead of its first step: %s", error)
        except Exception as error:  # any error is reported to the caller
            with self._changed:
                self._preparing.pop(row, None)
            self._fail(row, error)
        with self._changed:
            if row in self._preparing:  # it has not failed, and the engine does not close
                del self._preparing[row]
                self._samples |= samples
                self._admit(row)

    def _prepare_with_others(self, row: Row) -> None:
        """What fails here is not of this row alone: it fails again where its sample is made, or is of others."""
        with self._changed:
            waiting = [each for each in self._preparing if each is not row and each.denoiser is row.denoiser]
        try:
            row.denoiser.prepare([each.spec for each in (row, *waiting[: PREPARED_TOGETHER - 1])])
        except DeviceLostError:
            raise
        except Exception as error:
            log.info("rows could not be prepared together: %s", error)

    def _admit(self, row: Row) -> None:
        """The row takes part in the choice of the next step. Called with the lock."""
        self._scheduler.add(row)
        self._changed.notify()

    def _wait_for_work(self) -> bool:
        """False when the engine closes. Without rows it returns where there is idle work, too."""
        with self._changed:
            while not (self._closing or len(self._scheduler) or self._in_flight or self._to_decode):
                is_notified = self._changed.wait(IDLE_AFTER_S if self._idle_work else None)
                if not is_notified and self._is_idle():
                    break
            if self._closing:
                for row in self._drain():
                    row.future.cancel()
        return not self._closing

    def _is_idle(self) -> bool:
        with self._changed:
            waiting = self._preparing or len(self._scheduler)
            return not (waiting or self._in_flight or self._to_decode or self._decoding)

    def _work_idly(self) -> None:
        if not self._idle_work:
            return
        try:
            next(self._idle_work[0])
        except StopIteration:
            self._idle_work.popleft()
        except DeviceLostError as error:
            self._lose_device(error)
        except Exception:  # nobody waits for it, and the thread must go on
            log.exception("work for idle times failed")
            self._idle_work.popleft()

    def _next_rows(self) -> Sequence[Row]:
        now = time.time()
        with self._changed:
            expired = self._scheduler.drop_expired(now)
            rows = self._scheduler.next_batch(now, self._latency_model)
            for row in self._samples.keys() - set(self._scheduler.rows):
                del self._samples[row]
        for row in expired:
            self._fail(row, _lateness(row, now))
        return rows

    def _decode_finished(self) -> None:
        """Decode all finished rows overlapped with the next steps. Where none will be, one here, with all cores."""
        while item := self._next_to_decode():
            row, sample, overlapped = item
            if not overlapped:
                self._decode(row, sample)
                return
            self._decoder.submit(self._decode, row, sample, overlapped=True)

    def _next_to_decode(self) -> tuple[Row, Any, bool] | None:
        """A row, its sample, and whether to overlap its decoding with steps, which may also come meanwhile."""
        with self._changed:
            if not self._to_decode:
                return None
            row, sample = self._to_decode.popleft()
            self._decoding.add(row)
            return row, sample, row.denoiser.is_asynchronous or len(self._scheduler) > 0

    def _advance(self, rows: Sequence[Row]) -> None:
        """Launch one step for these rows; a row that fails alone is failed and removed."""
        with self._changed:
            is_overlapped = bool(self._decoding)  # with decodings, any of which may end before this step has failed
        try:
            with self._timing(rows):
                if new := [row.spec for row in rows if row not in self._samples]:
                    rows[0].denoiser.prepare(new)
                samples = [self._sample(row) for row in rows]
                with self._changed:
                    self._scheduler.begin(rows, time.time())
                step = rows[0].denoiser.step(samples)
        except DeviceLostError as error:
            self._lose_device(error)
        except OutOfMemoryError as error:
            self._on_out_of_memory(rows, error, is_overlapped)
        except Exception as error:  # any error is reported to the callers: the thread must go on
            self._step_alone(rows, error)
        else:
            self._launched(Launch(rows, step, [row.batch_size for row in rows]))

    def _timing(self, rows: Sequence[Row], batch_size: int | None = None) -> AbstractContextManager[None]:
        """Around a step of these rows, or what comes before it: it must not take much longer than the step should.

        `batch_size` is that of the step, where it is not their next one.
        """
        bucket, batch_size = rows[0].bucket, batch_size or batch_size_of(rows)
        is_first = not self._latency_model.is_measured(bucket, batch_size)
        return self._hangs.timing(self._latency_model.step_s(bucket, batch_size), is_first=is_first)

    def _sample(self, row: Row) -> Any:
        if row not in self._samples:
            self._samples[row] = row.denoiser.start(row.spec, row.face)
        return self._samples[row]

    def _launched(self, launch: Launch) -> None:
        joined = [row for row in launch.rows if not row.steps_done]
        for row in launch.rows:
            row.steps_done += 1
            row.memory_errors = 0
        done = [row for row in launch.rows if not row.steps_left]
        with self._changed:
            if self._lost is not None:  # for a step that was given up and ended after all, its rows have failed
                return
            self._in_flight.append(launch)
            self._to_decode.extend((row, self._samples.pop(row)) for row in done)
            self._scheduler.remove(done)
        if self._observer is not None and joined:
            self._observer.joined(joined)

    def _await_steps(self, unfinished: int) -> None:
        """Wait until at most so many steps are under way."""
        while len(self._in_flight) > unfinished:
            self._await_step(self._in_flight[0])
            self._in_flight.popleft()

    def _await_step(self, launch: Launch) -> None:
        """Learn how long a step took. One that failed after its launch fails its rows: their samples are lost."""
        try:
            with self._timing(launch.rows, launch.batch_size):
                seconds = launch.step.wait_s()
        except DeviceLostError as error:
            self._lose_device(error)
        except Exception as error:  # any error is reported to the callers: the thread must go on
            for row in launch.rows:
                self._remove_failed(row, error)
        else:
            self._stepped(launch, seconds)

    def _stepped(self, launch: Launch, seconds: float) -> None:
        rows = launch.rows
        self._latency_model.add(rows[0].bucket, launch.batch_size, seconds)
        with self._changed:
            self._scheduler.charge(rows, seconds, time.time(), launch.sizes)
            waiting = self._scheduler.waiting()
            is_lost = self._lost is not None
        if self._observer is not None and not is_lost:
            self._observer.stepped(launch, seconds, waiting)

    def _step_alone(self, rows: Sequence[Row], error: Exception) -> None:
        if len(rows) == 1:
            self._remove_failed(rows[0], error)
            return
        for row in rows:
            self._advance([row])

    def _on_out_of_memory(self, rows: Sequence[Row], error: OutOfMemoryError, is_overlapped: bool) -> None:
        """Retry the rows with the memory that decodings took, or else a smaller batch; a row that is alone, once."""
        if is_overlapped:
            self._await_decodings()
            if not self._closing:
                self._advance(rows)
            return
        self._latency_model.out_of_memory(rows[0].bucket, batch_size_of(rows))
        if len(rows) == 1 and _is_out_of_memory_again(rows[0]):
            self._remove_failed(rows[0], error)

    def _await_decodings(self) -> None:
        """Wait for the decodings that overlap with this step."""
        with self._changed:
            while self._decoding and not self._closing:
                self._changed.wait()

    def _remove_failed(self, row: Row, error: Exception) -> None:
        with self._changed:
            self._scheduler.remove([row])
        self._samples.pop(row, None)
        self._fail(row, error)

    def _decode(self, row: Row, sample: Any, overlapped: bool = False) -> None:
        if row.future.done():  # cancelled, or failed after its last step was launched
            self._end_decoding(row)
            return
        try:
            with self._hangs.timing(self._image_s(row)):
                pixels = row.denoiser.decode(sample, overlapped)
        except DeviceLostError as error:
            self._lose_device(error)
        except Exception as error:
            if isinstance(error, OutOfMemoryError) and not _is_out_of_memory_again(row):
                self._decode_later(row, sample)
            else:
                self._end_decoding(row)
                self._fail(row, error)
        else:
            self._end_decoding(row)
            self._succeed(row, pixels)

    def _image_s(self, row: Row) -> float:
        """Seconds of all steps of an image, longer than its decoding, of which there is no forecast."""
        return row.alone_s(self._latency_model, 0)

    def _decode_later(self, row: Row, sample: Any) -> None:
        with self._changed:
            self._decoding.discard(row)
            self._to_decode.append((row, sample))
            self._changed.notify()

    def _end_decoding(self, row: Row) -> None:
        """Called before the result is set: a caller that has it must not see the row in `progress` any more."""
        with self._changed:
            self._decoding.discard(row)
            self._changed.notify()

    def _succeed(self, row: Row, pixels: Pixels) -> None:
        if self._claim(row):
            startup_s = max(0.0, self._ready_at - row.spec.submitted_at)
            row.future.set_result(GeneratedImage(pixels, time.time() - row.arrived_at, startup_s))

    def _fail(self, row: Row, error: Exception) -> None:
        if self._claim(row):
            row.future.set_exception(error)

    def _claim(self, row: Row) -> bool:
        """Whether the caller may set the outcome: not of a cancelled row, nor of one that another thread has failed."""
        with self._changed:
            return not (row.future.running() or row.future.done()) and row.future.set_running_or_notify_cancel()


def _lateness(row: Row, now: float) -> DeadlineError:
    """Why a row that has expired failed."""
    if row.start_deadline is not None and row.start_deadline <= now:
        return NotBegunError.within(row.start_deadline - row.spec.submitted_at)
    return DeadlineError("The deadline passed before the image was done.")


def _is_out_of_memory_again(row: Row) -> bool:
    """Whether a row that is alone ran out of memory twice in a row: then it will never fit."""
    row.memory_errors += 1
    return row.memory_errors > 1


def _progress(row: Row, eta: RowEta) -> ImageProgress:
    spec = row.spec
    return ImageProgress(
        spec.task_id,
        spec.image_index,
        row.steps_done,
        spec.num_inference_steps,
        eta.eta_s,
        eta.queue_position,
    )
