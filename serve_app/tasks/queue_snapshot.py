"""The queue at one moment, read in one call: its length, positions in it, and how fast the workers are."""

import time
from typing import Any, NamedTuple

from serve_app.backends.redis import ALLOW_OOM, Redis
from serve_app.schemas.requests import Priority
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.models import Queued, Throughput
from serve_app.tasks.store import MAX_OPEN_S
from serve_app.tasks.stream import GROUP, NORMAL_IN_A_ROW, Message

MAX_POSITION = 1000  # counting stops there

# KEYS: the streams of normal and low priority, throughput, and of one owner: its unfinished queued tasks, the one that
# waits in line, those behind it. ARGV: group, at most, unix time before which an unfinished task was lost; of the task
# whose position is asked for: its message and priority or '', and its id. 1: positions are asked for, 0: only the rest.
SNAPSHOT = """
local normal, low, throughput, of_owner, line, later = unpack(KEYS)
local group, most = ARGV[1], ARGV[2]

local function delivered(stream)
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if groups.err then return 0, '0-0' end  -- no stream yet
    for _, fields in ipairs(groups) do
        local described = {}
        for at = 1, #fields, 2 do described[fields[at]] = fields[at + 1] end
        if described['name'] == group then return described['pending'], described['last-delivered-id'] end
    end
    return 0, '0-0'
end

local function count(stream, after, last)
    return #redis.call('XRANGE', stream, '(' .. after, last, 'COUNT', most)
end

local normal_pending, normal_last = delivered(normal)
local low_pending, low_last = delivered(low)
local paces = redis.call('HMGET', throughput, 'task_s', 'image_s')
local ahead, normal_waiting, low_waiting = false, 0, 0
if ARGV[4] ~= '' then
    ahead = ARGV[5] == 'low' and count(low, low_last, ARGV[4]) or count(normal, normal_last, ARGV[4])
end
if ARGV[7] == '1' and (ahead or paces[1]) then  -- counting a thousand takes a millisecond
    normal_waiting, low_waiting = count(normal, normal_last, '+'), count(low, low_last, '+')
end
redis.call('ZREMRANGEBYSCORE', of_owner, '-inf', ARGV[3])
return {
    redis.call('XLEN', normal) + redis.call('XLEN', low), normal_pending + low_pending,
    normal_waiting, low_waiting, ahead,
    redis.call('ZRANK', later, ARGV[6]), redis.call('ZCARD', of_owner), redis.call('EXISTS', line), paces[1], paces[2],
}
"""


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
        self._read = redis.register_script(ALLOW_OOM + SNAPSHOT)

    async def snapshot(
        self, owner: str = "", message: Message | None = None, *, positions: bool = True
    ) -> QueueSnapshot:
        """The queue, with what concerns this owner and this message of a task of it.

        What waits is counted only for `positions`, where a message or a forecast needs it; else it is 0.
        Raises: BrokerError.
        """
        keys = self._keys
        streams, of_owner = (keys.queue, keys.low_queue), (keys.open_of(owner), keys.line(owner), keys.later(owner))
        asked = ("", "", "") if message is None else (message.message_id, message.priority, message.task_id)
        answer: Any = await self._read(
            [*streams, keys.throughput, *of_owner],
            [GROUP, MAX_POSITION, time.time() - MAX_OPEN_S, *asked, int(positions)],
        )
        length, running, normal_waiting, low_waiting, ahead, own_ahead, tasks, in_line, task_s, image_s = answer
        return QueueSnapshot(
            length=length,
            running=running,
            normal_waiting=normal_waiting,
            low_waiting=low_waiting,
            ahead=ahead,
            own_ahead=own_ahead,
            queued=Queued(tasks, "low" if in_line else "normal"),
            throughput=Throughput(float(task_s), float(image_s)) if task_s and image_s else None,
        )
