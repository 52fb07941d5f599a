"""Positions and ETAs of queued tasks, and load shedding: tasks that would miss their deadline are refused."""

import math
from typing import NamedTuple

from serve_app.errors import MAX_RETRY_AFTER_S, OverloadedError, RateLimitError, TooLateError
from serve_app.generation.envelope import QueuePosition
from serve_app.generation.settings import GenerationSettings
from serve_app.tasks.models import Task, TaskRecord, Throughput
from serve_app.tasks.queue_snapshot import QueueReader, QueueSnapshot
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import Message


class Forecast(NamedTuple):
    """Estimates from recent throughput. While tasks wait, `running` is the number that the workers run at once."""

    throughput: Throughput
    running: int

    @classmethod
    def of(cls, queue: QueueSnapshot) -> "Forecast | None":
        """None without recent measurements."""
        return None if queue.throughput is None else cls(queue.throughput, queue.running)

    def start_s(self, position: int) -> float:
        """Seconds until the task at a position (1 is next) starts: each task that ends makes room for one."""
        return position * self.throughput.task_s / self.running if self.running else 0.0

    def done_s(self, position: int, images: int) -> float:
        """Seconds until it is done. Position 0 is in progress; `images` are those that remain."""
        throughput = self.throughput
        image_s = throughput.image_s if throughput.app_image_s is None else throughput.app_image_s
        return self.start_s(position) + images * image_s

    def retry_after_s(self, too_late_s: float = 0.0) -> int:
        """Seconds until a retry is useful: the next task has ended, and the queue is `too_late_s` shorter."""
        wait_s = max(self.start_s(1), too_late_s)
        return min(max(math.ceil(wait_s), 1), MAX_RETRY_AFTER_S)


class QueueEta:
    """Estimates by recent worker throughput, and by the progress that the generator reports."""

    def __init__(self, settings: GenerationSettings, tasks: TaskStore, queue: QueueReader) -> None:
        self._settings = settings
        self._tasks = tasks
        self._queue = queue

    async def check_load(self, task: Task, most: int) -> None:
        """Refuse a task that would miss its deadline, or whose owner has `most` in the queue already (0: no limit).

        A repeat of a queued task is never refused. Raises: RateLimitError; OverloadedError; BrokerError.
        """
        queue = await self._queue.snapshot(task.owner, app_id=task.request.app_id)
        queued, forecast = queue.queued, Forecast.of(queue)
        retry_after_s = self._settings.admission.retry_after_s
        if most and queued.tasks >= most:
            message = f"{queued.tasks} tasks of this token are in the queue; it may have {most}."
            refusal: OverloadedError = RateLimitError(message, retry_after_s)
        elif queue.length >= self._settings.queue.max_tasks:
            refusal = OverloadedError("The queue is full.", forecast.retry_after_s() if forecast else retry_after_s)
        elif forecast and (late := _lateness(task, queue, forecast)):
            message, late_s = late
            refusal = TooLateError(message, forecast.retry_after_s(late_s))
        else:
            return
        if not await self._tasks.knows(task):
            raise refusal

    async def position(self, record: TaskRecord) -> QueuePosition:
        """The position and ETA of an unfinished task. Raises: BrokerError."""
        position, request, task_id = 0, record.task.request, record.task.task_id
        waits = record.status == "PENDING" and record.message_id is not None
        message = Message(record.message_id or "", task_id, record.priority) if waits else None
        queue = await self._queue.snapshot(record.task.owner, message, positions=waits, app_id=request.app_id)
        if message is not None:
            position = queue.position(record.priority)
            if position and queue.own_ahead is not None:
                position = min(position, (queue.own_ahead + 1) * queue.next_position("normal"))
        reported = await self._tasks.progress(task_id) if record.status == "STARTED" else {}
        drawing = {index: image for index, image in reported.items() if index not in record.avatars}
        if (
            drawing and len(drawing) + record.images_done == request.batch
        ):  # the generator knows more than past throughput
            # Once the first image of a task is done, its others only wait for each other.
            waiting = 0 if record.images_done else min(image.queue_position for image in drawing.values())
            return QueuePosition(waiting, round(max(image.eta_s for image in drawing.values()), 1), drawing)
        forecast = Forecast.of(queue)
        if forecast is None:
            return QueuePosition(position, None, drawing)
        return QueuePosition(position, round(forecast.done_s(position, request.batch - record.images_done), 1), drawing)


def _lateness(task: Task, queue: QueueSnapshot, forecast: Forecast) -> tuple[str, float] | None:
    """Which deadline a task that is queued now would miss, and by how many seconds; None: it would miss none."""
    request, position = task.request, _position(task, queue)
    # Of an app to fall back on that was not used of late nothing is known, least of all that it is as slow as others.
    is_unknown = request.fallback_from is not None and forecast.throughput.app_image_s is None
    if not is_unknown and (late_s := forecast.done_s(position, request.batch) - request.deadline_s) > 0:
        return "The queue is so long that this would not be done by its deadline.", late_s
    if request.start_deadline_s is not None and (late_s := forecast.start_s(position) - request.start_deadline_s) > 0:
        return "The queue is so long that this would not begin by its start deadline.", late_s
    return None


def _position(task: Task, queue: QueueSnapshot) -> int:
    """The position of a task that is queued now."""
    takes_turns = task.request.priority == "normal" and queue.queued.next_one == "low"
    position = queue.next_position("low" if takes_turns else task.request.priority)
    if takes_turns:  # its owner has queued tasks already: they alternate with those of other owners
        position = min(position, queue.queued.tasks * queue.next_position("normal"))
    return position
