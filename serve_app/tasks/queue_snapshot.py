"""The queue at one moment, read in one call: its length, positions in it, and how fast the workers are."""

import time
from typing import NamedTuple

from serve_app.backends.lua import Script
from serve_app.backends.redis import Redis
from serve_app.schemas.requests import Priority
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import Queued, Throughput
from serve_app.tasks.store import LUA, MAX_OPEN_S
from serve_app.tasks.stream import GROUP, NORMAL_IN_A_ROW, Message

MAX_POSITION = 1000  # counting stops there


class QueueSnapshot(NamedTuple):
    """`length` are tasks that wait or run, `running` those that workers have. Those that wait are counted by stream.

    `ahead` are undelivered messages up to the one that was asked for, with it, and 0 where it was delivered.
    `own_ahead` are the tasks of its owner before it, None where it does not wait for its owner's turn.
    """

    length: int
    running: int
    normal_waiting: int
    low_waiting: int
    ahead: int | None
    own_ahead: int | None
    queued: Queued
    throughput: Throughput | None  # None without recent measurements

    def position(self, priority: Priority) -> int:
        """Of the message that was asked for: 1 is next, 0 was delivered to a worker.

        Messages that come later may still pass one of low priority.
        """
        return self._in_both_streams(self.ahead, priority) if self.ahead else 0

    def next_position(self, priority: Priority) -> int:
        """The position of a message that is queued now."""
        return self._in_both_streams((self.low_waiting if priority == "low" else self.normal_waiting) + 1, priority)

    def _in_both_streams(self, position: int, priority: Priority) -> int:
        """The position in the whole queue of a message by that in its own stream."""
        if priority == "low":
            return position + min(position * NORMAL_IN_A_ROW, self.normal_waiting)
        return position + min((position - 1) // NORMAL_IN_A_ROW, self.low_waiting)


class QueueReader:
    """Reads snapshots of the queue."""

    def __init__(self, redis: Redis) -> None:
        self._keys = TaskKeys(redis.prefix)
        self._read = Script(redis, LUA / "snapshot.lua")

    async def snapshot(
        self, owner: str = "", message: Message | None = None, *, positions: bool = True, app_id: str = ""
    ) -> QueueSnapshot:
        """The queue, with what concerns this owner, this message of a task of it, and this app.

        What waits is counted only for `positions`, where a message or a forecast needs it; else it is 0.
        Raises: BrokerError.
        """
        keys, asked = self._keys, message or Message("", "")
        answer = await self._read(
            normal=keys.queue,
            low=keys.low_queue,
            throughput=keys.throughput,
            of_owner=keys.open_of(owner),
            line=keys.line(owner),
            later=keys.later(owner),
            group=GROUP,
            most=MAX_POSITION,
            lost_before=time.time() - MAX_OPEN_S,
            **asked._asdict(),
            positions=int(positions),
            app=app_id,
        )
        length, running, normal_waiting, low_waiting, ahead, own_ahead, tasks, in_line, *paces = answer
        task_s, image_s, app_image_s = (None if pace is None else float(pace) for pace in paces)
        return QueueSnapshot(
            length=length,
            running=running,
            normal_waiting=normal_waiting,
            low_waiting=low_waiting,
            ahead=ahead,
            own_ahead=own_ahead,
            queued=Queued(tasks, "low" if in_line else "normal"),
            throughput=Throughput(task_s, image_s, app_image_s) if task_s and image_s else None,
        )
