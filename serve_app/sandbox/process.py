"""Child processes for code that parses hostile bytes, so that a crash or a hang stays inside the child.

A child is a new program, not a fork: it shares no memory, files or environment with this process. Before it reads any
input it drops the right to open files and sockets and, where there is seccomp, to make system calls that it does not
need, and limits its memory and CPU time; the parent enforces the wall-time limit. They talk over one socket: a request
is a length, whether the picture may be a large one, and that many bytes; an answer two numbers and a payload.

A picture that its header says to be large is answered at once with that, and asked about again when there is a turn
for a large one: then the child has `large_timeout_s` for it instead of `timeout_s`.
"""

import asyncio
import json
import logging
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from serve_app.errors import ImageUrlError, too_costly
from serve_app.sandbox.syscall_filter import syscall_filter
from serve_app.sandbox.turns import ProcessTurns

START_TIMEOUT_S = 60.0  # a start takes half a second on an idle machine
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # some Python installations do not start without them
MAX_REFUSAL_BYTES = 4096

# By default glibc adapts to large pictures and keeps their memory, in fragments too small for the next picture that
# still count towards the limit. Lower thresholds than these make a small picture spend half its time in page faults.
# A thread of a decoder would get an arena of its own, which keeps what it freed.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "MALLOC_ARENA_MAX": "1",
}

REQUEST = struct.Struct("!I?")  # size of the picture that follows, bytes, and whether it may be a large one
ANSWER = struct.Struct("!II")  # two numbers that describe the payload; 0 and a length: a refusal, as JSON
READY = ANSWER.pack(0, 0)
IS_LARGE = ANSWER.pack(0, 0)

T = TypeVar("T")
log = logging.getLogger(__name__)

AnswerParts = Iterable[bytes | memoryview]
Receive = Callable[[int], bytearray]
"""Reads exactly that many bytes of an answer. Raises: EOFError, TimeoutError."""


class SandboxSettings(BaseModel):
    """Limits of the sandboxed processes of one ingress replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: PositiveInt = 2  # pictures processed at once
    timeout_s: PositiveFloat = 1.8  # for one picture; slower ones are rejected within 2 s
    # For a large one, of which all processes but one work on some at most: 0.4 to 3 s of computing, on a busy machine
    # several times that.
    large_timeout_s: PositiveFloat = 20
    max_memory_bytes: PositiveInt = 900 * 1000 * 1000  # of one process, on top of its idle memory
    owner_seconds: PositiveFloat = 20  # of processing for one owner, half forgotten every 30 s; beyond: 429


class SandboxStartError(RuntimeError):
    """A child process does not start; no picture is the cause."""


class LargePictureError(Exception):
    """A picture is to be asked about again, as a large one."""


class SandboxLostError(Exception):
    """A child process died, timed out or sent an invalid answer, and was killed."""


class SandboxedProcess(ABC, Generic[T]):
    """One child process and its socket, for one thread at a time.

    SandboxLostError and SandboxStartError kill the child. It exits by itself when this process does.
    """

    def __init__(self, module: str, arguments: Iterable[str], settings: SandboxSettings) -> None:
        """Raises: OSError."""
        self._settings = settings
        self._is_ready = False
        self._socket, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                cwd="/",
                process_group=0,  # ctrl-C in a terminal must reach the service only, which ends this process
                env=child_environment(),
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def has_ended(self) -> bool:
        """Whether the child has exited, killed or not."""
        return self._child.poll() is not None

    @property
    def pid(self) -> int:
        """The child's process id, also after it has exited."""
        return self._child.pid

    def ask(self, data: bytes, *, large: bool = True) -> T:
        """The child's answer to a picture.

        Raises: ImageUrlError; SandboxLostError; SandboxStartError; LargePictureError where it is large, unless it is
        said to be by `large`.
        """
        self._await_ready()
        timeout_s = self._settings.large_timeout_s if large else self._settings.timeout_s
        deadline = time.monotonic() + timeout_s
        try:
            self._send(REQUEST.pack(len(data), large), deadline)
            self._send(data, deadline)
            answer = self._answer(lambda size: self._receive(size, deadline), large=large)
        except TimeoutError:
            self.end()
            raise SandboxLostError(f"no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise SandboxLostError(f"{error!r}, exit status {self.end()}") from None
        if isinstance(answer, ImageUrlError):
            raise answer
        return answer

    def end(self) -> int:
        """Kill the child and return its exit status."""
        self._socket.close()
        self._child.kill()
        return self._child.wait()

    @abstractmethod
    def _read(self, first: int, second: int, receive: Receive) -> T:
        """Reads the payload that the two numbers of an answer describe. Raises: ValueError, TypeError if invalid."""

    def _answer(self, receive: Receive, *, large: bool) -> T | ImageUrlError:
        """Validates the answer like a picture: a picture may have taken over the child."""
        header = receive(ANSWER.size)
        if header == IS_LARGE and not large:
            raise LargePictureError
        first, second = ANSWER.unpack(header)
        if first == 0 and second <= MAX_REFUSAL_BYTES:
            return ImageUrlError(**json.loads(receive(second)))
        return self._read(first, second, receive)

    def _await_ready(self) -> None:
        if self._is_ready:
            return
        try:
            if self._receive(len(READY), time.monotonic() + START_TIMEOUT_S) != READY:
                raise ValueError("its first word is another")
        except (OSError, EOFError, ValueError) as error:
            raise SandboxStartError(f"{error!r}, exit status {self.end()}") from None
        self._is_ready = True

    def _send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(_seconds_until(deadline))
        self._socket.sendall(data)

    def _receive(self, size: int, deadline: float) -> bytearray:
        received = bytearray(size)
        rest = memoryview(received)
        while rest:
            self._socket.settimeout(_seconds_until(deadline))
            count = self._socket.recv_into(rest)
            if count == 0:
                raise EOFError("the socket was closed")
            rest = rest[count:]
        return received


class SandboxPool(Generic[T]):
    """A few processes of one kind, started by `start` or else by the first pictures."""

    def __init__(self, make: Callable[[], SandboxedProcess[T]], name: str, turns: ProcessTurns) -> None:
        self._make = make
        self._name = name
        self._turns = turns
        # Own threads: slow DNS look-ups can occupy all threads of the event loop.
        self._threads = ThreadPoolExecutor(turns.processes, name)
        self._idle: SimpleQueue[SandboxedProcess[T] | None] = SimpleQueue()  # one entry a thread; None: not started
        for _ in range(turns.processes):
            self._idle.put(None)

    def start(self) -> None:
        """Start the processes ahead of the first pictures, without waiting until they are ready."""
        for _ in range(self._turns.processes):
            self._threads.submit(self._start_one)

    async def ask(self, data: bytes, owner: str = "") -> T:
        """The answer to a picture of an owner.

        Raises: ImageUrlError, also for a picture that killed or stalled its process; SandboxStartError; RateLimitError
        where pictures of its owner used too much time.
        """
        try:
            return await self._ask_in_turn(data, owner, large=False)
        except LargePictureError:
            return await self._ask_in_turn(data, owner, large=True)

    async def _ask_in_turn(self, data: bytes, owner: str, *, large: bool) -> T:
        turn = await self._turns.acquire(owner, large=large)
        answer = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, data, large)
        answer.add_done_callback(lambda _: turn.end())
        return await asyncio.shield(answer)  # the process works on although its request has ended

    def _ask(self, data: bytes, large: bool) -> T:
        process = self._idle.get()
        try:
            process = self._living(process)
            return process.ask(data, large=large)
        except SandboxLostError as error:
            log.warning("sandboxed process (%s) lost on a picture of %d bytes: %s", self._name, len(data), error)
            process = self._started()
            raise too_costly() from None
        finally:
            self._idle.put(process)

    async def close(self) -> None:
        """Waits for the pictures that are being processed, then kills the processes."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        while not self._idle.empty():
            if process := self._idle.get():
                process.end()

    def _start_one(self) -> None:
        self._idle.put(self._idle.get() or self._started())

    def _started(self) -> SandboxedProcess[T] | None:
        try:
            return self._make()
        except OSError:
            log.exception("cannot start a sandboxed process (%s)", self._name)
            return None  # the next picture tries again and reports the error

    def _living(self, process: SandboxedProcess[T] | None) -> SandboxedProcess[T]:
        """The same process, or a new one if it has not started or died while idle. Raises: OSError."""
        if process is not None:
            if not process.has_ended:
                return process
            process.end()
        return self._make()


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def child_environment() -> dict[str, str]:
    """What a child needs to import this package, without anything that could be secret."""
    return {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",  # more threads would only cost memory
        **MALLOC,
        **{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
    }


def serve_pictures(
    answer: Callable[[bytes, bool], AnswerParts],
    requests: BinaryIO,
    answers: BinaryIO,
    settings: SandboxSettings,
    *,
    threads: bool = False,
) -> None:
    """The main loop of a child, until its input ends. Everything that `answer` imports must be loaded already.

    `answer` gets a picture, and whether it may be a large one; `threads`: it starts some.
    """
    enter_sandbox(settings.max_memory_bytes, threads=threads)
    answers.write(READY)
    answers.flush()
    while header := requests.read(REQUEST.size):
        size, large = REQUEST.unpack(header)
        data = requests.read(size)
        bound_cpu_time(settings.large_timeout_s if large else settings.timeout_s)
        answers.writelines(answer(data, large))
        answers.flush()


def refusal_parts(error: ImageUrlError) -> AnswerParts:
    """An answer for which `ask` raises this error; its data are at most MAX_REFUSAL_BYTES of JSON."""
    refusal = json.dumps(error.data).encode()
    return ANSWER.pack(0, len(refusal)), refusal


def enter_sandbox(max_memory_bytes: int, *, threads: bool = False) -> None:
    """Forbid this process to open files and sockets, and all system calls that pictures do not need.

    It also limits the memory that the process can still allocate. `threads`: it may start more of them.
    """
    restrict_syscalls = syscall_filter(threads=threads)
    if sys.platform == "linux":  # macOS does not enforce memory limits
        max_bytes = data_bytes() + max_memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Descriptors that are open stay so. With a limit of three, code that took over the process could close one of its
    # three and open a file or a socket in its place.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    restrict_syscalls()


def bound_cpu_time(seconds: float) -> None:
    """Have the kernel kill this process after so much more CPU time, rounded up to seconds; needs no parent."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(time.process_time() + seconds), most))


def data_bytes() -> int:
    """Memory that this process has allocated, used or not: what RLIMIT_DATA counts, plus the stack."""
    pages = Path("/proc/self/statm").read_text().split()[5]
    return int(pages) * resource.getpagesize()
