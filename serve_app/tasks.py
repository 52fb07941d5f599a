"""The records of tasks: the truth about what was asked for, how far it is, and what came of it.

A record is a hash in Redis. Whoever works on a task holds its lease, a key that runs out soon after its holder died.
Each change is one script, so that of two who try the same at once one wins. Photos and their URLs are never recorded.
"""

import hashlib
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from serve_app.broker import broker_errors
from serve_app.errors import ConflictError
from serve_app.pipeline import StoredAvatar
from serve_app.schemas import EffectiveRequest, Status
from serve_app.storage import photo_key, result_key, thumbnail_key

LEASE_S = 10.0
UNFINISHED = frozenset({"PENDING", "STARTED"})


class Recorded(BaseModel):
    # What a newer version wrote must not be an error to an older one, while one replaces the other.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Task(Recorded):
    """One request, as it is worked on. `owner` is whose token it came with."""

    task_id: str
    owner: str
    request: EffectiveRequest
    submitted_at: float  # unix seconds
    idempotency: str | None = None  # the digest of the client's key

    @property
    def deadline(self) -> float:
        """Unix seconds."""
        return self.submitted_at + self.request.deadline_s


class Failure(Recorded):
    """An error as its HTTP answer tells it."""

    status: int
    error: str
    error_data: dict[str, Any]


class Outcome(Recorded):
    """What came of a task: its avatars, or why there are none. `stages` and `startup_s` are seconds."""

    avatars: tuple[StoredAvatar, ...] = ()
    failure: Failure | None = None
    stages: dict[str, float] = {}
    startup_s: float = 0.0


class TaskRecord(Recorded):
    task: Task
    status: Status
    attempts: int = 0  # how often somebody began to work on it
    started_at: float | None = None  # unix seconds
    finished_at: float | None = None
    images_done: int = 0
    outcome: Outcome = Outcome()
    message_id: str | None = None  # in the queue
    held: bool = False  # somebody works on it now

    @property
    def finished(self) -> bool:
        return self.status not in UNFINISHED


class Claim(StrEnum):
    OURS = "ours"
    HELD = "held"  # somebody else works on it
    OVER = "over"  # finished, cancelled, or forgotten


class Keys:
    """The names of the keys."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.queue = f"{self._prefix}:queue"
        self.tokens = f"{self._prefix}:tokens"
        self.signing_key = f"{self._prefix}:signing-key"

    def record(self, task_id: str) -> str:
        return f"{self._prefix}:task:{task_id}"

    def lease(self, task_id: str) -> str:
        return f"{self._prefix}:lease:{task_id}"

    def idempotency(self, digest: str) -> str:
        return f"{self._prefix}:idempotency:{digest}"


# KEYS: record, lease, idempotency; ARGV: task, status, holder, lease_ms, ttl_s, task_id, body digest or '', now,
# ttl_s of the key, which must not outlive the record
CREATE = """
if ARGV[7] ~= '' then
    local known = redis.call('GET', KEYS[3])
    if known then return known end
    redis.call('SET', KEYS[3], ARGV[6] .. ' ' .. ARGV[7], 'EX', ARGV[9])
end
redis.call('HSET', KEYS[1], 'task', ARGV[1], 'status', ARGV[2])
if ARGV[2] == 'STARTED' then redis.call('HSET', KEYS[1], 'started_at', ARGV[8]) end
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return ARGV[6] .. ' ' .. ARGV[7]
"""

# KEYS: record, lease, queue; ARGV: holder, task_id
ENQUEUE = """
if redis.call('HGET', KEYS[1], 'status') ~= 'PENDING' or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'message_id', redis.call('XADD', KEYS[3], '*', 'task_id', ARGV[2]))
redis.call('DEL', KEYS[2])
return 1
"""

# KEYS: record, lease; ARGV: holder, lease_ms, now, status to set
CLAIM = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'PENDING' and status ~= 'STARTED' then return 'over' end
if not redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 'held' end
if ARGV[4] == 'STARTED' then
    redis.call('HSET', KEYS[1], 'status', 'STARTED')
    redis.call('HSETNX', KEYS[1], 'started_at', ARGV[3])
    redis.call('HINCRBY', KEYS[1], 'attempts', 1)
end
return 'ours'
"""

# KEYS: record, lease; ARGV: holder, lease_ms. A lease that ran out and that nobody took is taken again;
# what waits in the queue is nobody's.
RENEW = """
local status = redis.call('HGET', KEYS[1], 'status')
local holder = redis.call('GET', KEYS[2])
if (status ~= 'PENDING' and status ~= 'STARTED') or (holder and holder ~= ARGV[1]) then return 0 end
if not holder and status == 'PENDING' and redis.call('HEXISTS', KEYS[1], 'message_id') == 1 then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: record, lease, idempotency; ARGV: holder, status, outcome, now, ttl_s, forget the idempotency key: 0 or 1
FINISH = """
local status = redis.call('HGET', KEYS[1], 'status')
local holder = redis.call('GET', KEYS[2])
if (status ~= 'PENDING' and status ~= 'STARTED') or (holder and holder ~= ARGV[1]) then return 0 end
if not holder and status == 'PENDING' and redis.call('HEXISTS', KEYS[1], 'message_id') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'outcome', ARGV[3], 'finished_at', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('DEL', KEYS[2])
if ARGV[6] == '1' then redis.call('DEL', KEYS[3]) end
return 1
"""

# KEYS: record, lease, queue; ARGV: holder, task_id
HAND_BACK = """
if redis.call('HGET', KEYS[1], 'status') ~= 'STARTED' or redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local message = redis.call('XADD', KEYS[3], '*', 'task_id', ARGV[2])
redis.call('HSET', KEYS[1], 'status', 'PENDING', 'message_id', message)
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('DEL', KEYS[2])
return 1
"""

# KEYS: record; ARGV: field, value. A record that has expired is not begun again.
NOTE = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
"""

# KEYS: record, lease, queue; ARGV: now, ttl_s
CANCEL = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'PENDING' and status ~= 'STARTED' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'CANCELLED', 'finished_at', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
local message = redis.call('HGET', KEYS[1], 'message_id')
if message then redis.call('XDEL', KEYS[3], message) end
return 1
"""


class TaskStore:
    """Creates, reads and changes records. `holder` names this process in the leases that it takes.

    Every method raises BrokerError where Redis does not answer.
    """

    def __init__(self, redis: Redis, keys: Keys, holder: str, ttl_s: int, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._keys = keys
        self._holder = holder
        self._ttl_s = ttl_s
        self._lease_ms = round(lease_s * 1000)
        scripts = (CREATE, ENQUEUE, CLAIM, RENEW, FINISH, HAND_BACK, CANCEL, NOTE)
        (
            self._create,
            self._enqueue,
            self._claim,
            self._renew,
            self._finish,
            self._hand_back,
            self._cancel,
            self._note,
        ) = map(redis.register_script, scripts)

    async def create(self, task: Task, status: Status, body_digest: str = "") -> str:
        """Record a task, held by us; gives its id, or that of the task that its idempotency key stands for already.

        Raises: ConflictError where that one came with another body.
        """
        keys = [*self._held_keys(task.task_id), self._keys.idempotency(task.idempotency or "")]
        ttl_s = self._ttl_s + round(task.request.deadline_s)
        record: list[str | float] = [task.model_dump_json(), status, self._holder, self._lease_ms, ttl_s]
        arguments = [*record, task.task_id, body_digest, task.submitted_at, self._ttl_s]
        known = await self._run(self._create, keys, arguments)
        task_id, _, digest = str(known).partition(" ")
        if digest != body_digest:
            raise ConflictError("This idempotency key came with another request before.", task_id=task_id)
        return task_id

    async def knows(self, task: Task) -> bool:
        """Whether its idempotency key stands for a task already."""
        if task.idempotency is None:
            return False
        async with broker_errors():
            return bool(await self._redis.exists(self._keys.idempotency(task.idempotency)))

    async def get(self, task_id: str) -> TaskRecord | None:
        async with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(self._keys.record(task_id))
            pipe.exists(self._keys.lease(task_id))
            fields, held = await pipe.execute()
        if not fields:
            return None
        for name, kind in (("task", Task), ("outcome", Outcome)):
            if name in fields:
                fields[name] = kind.model_validate_json(fields[name])
        return TaskRecord(**fields, held=bool(held))

    async def enqueue(self, task_id: str) -> bool:
        """Put a task that we hold into the queue, and let go of it; false where it was cancelled meanwhile."""
        return bool(
            await self._run(self._enqueue, [*self._held_keys(task_id), self._keys.queue], [self._holder, task_id])
        )

    async def claim(self, task_id: str, status: Status = "STARTED") -> Claim:
        """Take a task's lease, to work on it (STARTED) or to put it into the queue (PENDING)."""
        arguments = (self._holder, self._lease_ms, time.time(), status)
        return Claim(str(await self._run(self._claim, self._held_keys(task_id), arguments)))

    async def renew(self, task_ids: Sequence[str]) -> list[bool]:
        """Hold the leases for another while; false where the task is over or somebody else's."""
        async with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            for task_id in task_ids:
                await self._renew(self._held_keys(task_id), [self._holder, self._lease_ms], client=pipe)
            return [bool(renewed) for renewed in await pipe.execute()]

    async def statuses(self, task_ids: Sequence[str]) -> list[str | None]:
        async with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            for task_id in task_ids:
                pipe.hget(self._keys.record(task_id), "status")
            statuses: list[str | None] = await pipe.execute()
            return statuses

    async def note_images_done(self, task_id: str, images: int) -> None:
        await self._run(self._note, [self._keys.record(task_id)], ["images_done", images])

    async def finish(self, task: Task, status: Status, outcome: Outcome) -> bool:
        """Record what came of a task; false where it was over, or in other hands.

        A failure of ours (not the client's) frees its idempotency key, so that a repeat is a new attempt.
        """
        ours = outcome.failure is not None and outcome.failure.status >= 500
        keys = [*self._held_keys(task.task_id), self._keys.idempotency(task.idempotency or "")]
        frees_key = int(ours and task.idempotency is not None)
        arguments = (self._holder, status, outcome.model_dump_json(), time.time(), self._ttl_s, frees_key)
        return bool(await self._run(self._finish, keys, arguments))

    async def hand_back(self, task_id: str) -> bool:
        """Put a task that we were working on back into the queue, for somebody else."""
        return bool(
            await self._run(self._hand_back, [*self._held_keys(task_id), self._keys.queue], [self._holder, task_id])
        )

    async def cancel(self, task_id: str) -> bool:
        """End an unfinished task; whoever works on it notices. False where it was over."""
        keys = [*self._held_keys(task_id), self._keys.queue]
        return bool(await self._run(self._cancel, keys, [time.time(), self._ttl_s]))

    async def forget_avatars(self, record: TaskRecord) -> None:
        """The record of a finished task without its results."""
        outcome = record.outcome.model_copy(update={"avatars": ()})
        await self._run(self._note, [self._keys.record(record.task.task_id)], ["outcome", outcome.model_dump_json()])

    async def ping(self) -> None:
        async with broker_errors():
            await self._redis.ping()

    def _held_keys(self, task_id: str) -> list[str]:
        return [self._keys.record(task_id), self._keys.lease(task_id)]

    async def _run(self, script: AsyncScript, keys: list[str], arguments: Sequence[str | int | float]) -> object:
        async with broker_errors():
            return await script(keys, list(arguments))


def task_files(task: Task) -> list[str]:
    """The keys of all that the store may hold of a task."""
    request, task_id = task.request, task.task_id
    images = [result_key(task_id, index, request.output_format) for index in range(request.batch)]
    return [photo_key(task_id), *images, *(thumbnail_key(task_id, index) for index in range(request.batch))]


def idempotency_digest(owner: str, key: str) -> str:
    """What stands for a client's idempotency key: the keys of two owners never meet."""
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()
