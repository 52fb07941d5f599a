"""Decodes photos in child processes, so that a picture which breaks or occupies its decoder harms nothing else.

A child is a new program, not a fork: it has none of this process's memory, files or environment. Before it sees a
picture it gives up opening files and sockets and bounds its memory and its CPU time; its parent bounds the wall time
and ends it. Between them there is one socket: a length and the picture's bytes go out, a size and pixels, or the data
of an ImageUrlError as JSON, come back.
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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import ceil
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from deployments.types import Photo
from serve_app.fetch import ImageUrlError
from serve_app.photo import FORMATS, ORIENTATION_TAG, PhotoSettings, decode_photo, too_costly

START_TIMEOUT_S = 60.0  # it takes half a second on a machine that is not busy
KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without which some installations of Python do not start
MAX_REFUSAL_BYTES = 4096

# Left alone, glibc learns from large pictures to keep their memory, in pieces that are too small for the next one but
# count for the limit. Lower thresholds than these cost a small picture half its time in page faults.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}

REQUEST = struct.Struct("!I")  # bytes of the picture that follows
ANSWER = struct.Struct("!II")  # height and width of the pixels that follow, or 0 and the length of a refusal
READY = ANSWER.pack(0, 0)

log = logging.getLogger(__name__)


class DecoderSettings(BaseModel):
    """Of one ingress replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: PositiveInt = 2  # photos decoded at once
    timeout_s: PositiveFloat = 1.8  # for one photo; what takes longer is refused within 2 s
    max_memory_bytes: PositiveInt = 300 * 1000 * 1000  # of one process, above what it has when idle


class DecoderStartError(RuntimeError):
    """A child process does not start: nothing that a picture could be blamed for."""


class DecoderLostError(Exception):
    """A child process died, took too long or answered nonsense, and was ended."""


class PhotoDecoder:
    """`decode_photo` in a few child processes, which start with `start` or else with the first photos."""

    def __init__(self, limits: PhotoSettings, settings: DecoderSettings) -> None:
        self._limits = limits
        self._settings = settings
        # Its own threads: look-ups of slow names fill those of the event loop.
        self._threads = ThreadPoolExecutor(settings.processes, "decode")
        self._idle: SimpleQueue[DecoderProcess | None] = SimpleQueue()  # as many as threads; None: not started
        for _ in range(settings.processes):
            self._idle.put(None)

    def start(self) -> None:
        """Start the processes before the first photos come, and do not wait until they are ready."""
        for _ in range(self._settings.processes):
            self._threads.submit(self._start_one)

    async def decode(self, data: bytes) -> Photo:
        """Raises: ImageUrlError, also for a picture that killed or stalled its decoder; DecoderStartError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data)

    async def close(self) -> None:
        """Waits for the photos that are being decoded."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        while not self._idle.empty():
            if process := self._idle.get():
                process.end()

    def _start_one(self) -> None:
        self._idle.put(self._idle.get() or self._started())

    def _started(self) -> "DecoderProcess | None":
        try:
            return DecoderProcess(self._limits, self._settings)
        except OSError:
            log.exception("a decoder process does not start")
            return None  # the next photo tries again, and tells its client

    def _living(self, process: "DecoderProcess | None") -> "DecoderProcess":
        """The same, or another for one that never started, or died with nothing to do. Raises: OSError."""
        if process is not None:
            if not process.has_ended:
                return process
            process.end()
        return DecoderProcess(self._limits, self._settings)

    def _decode(self, data: bytes) -> Photo:
        process = self._idle.get()
        try:
            process = self._living(process)
            return process.decode(data)
        except DecoderLostError as error:
            log.warning("a decoder process was lost to a picture of %d bytes: %s", len(data), error)
            process = self._started()
            raise too_costly() from None
        finally:
            self._idle.put(process)


class DecoderProcess:
    """One child process and the socket to it, for one thread at a time.

    A DecoderLostError or DecoderStartError ends it. It ends by itself when this process does.
    """

    def __init__(self, limits: PhotoSettings, settings: DecoderSettings) -> None:
        """Raises: OSError."""
        self._limits = limits
        self._settings = settings
        self._is_ready = False
        self._socket, theirs = socket.socketpair()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "serve_app.decoder", limits.model_dump_json(), settings.model_dump_json()],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                cwd="/",
                process_group=0,  # ctrl-C in a terminal is for the service, which ends this process
                env=child_environment(),
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def has_ended(self) -> bool:
        return self._child.poll() is not None

    @property
    def pid(self) -> int:
        return self._child.pid

    def decode(self, data: bytes) -> Photo:
        """Raises: ImageUrlError; DecoderLostError; DecoderStartError."""
        self._await_ready()
        deadline = time.monotonic() + self._settings.timeout_s
        try:
            self._send(REQUEST.pack(len(data)), deadline)
            self._send(data, deadline)
            answer = self._answer(deadline)
        except TimeoutError:
            self.end()
            raise DecoderLostError(f"no answer within {self._settings.timeout_s:g} s") from None
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise DecoderLostError(f"{error!r}, exit status {self.end()}") from None
        if isinstance(answer, ImageUrlError):
            raise answer
        return answer

    def end(self) -> int:
        """The exit status."""
        self._socket.close()
        self._child.kill()
        return self._child.wait()

    def _await_ready(self) -> None:
        if self._is_ready:
            return
        try:
            if self._receive(len(READY), time.monotonic() + START_TIMEOUT_S) != READY:
                raise ValueError("its first word is another")
        except (OSError, EOFError, ValueError) as error:
            raise DecoderStartError(f"{error!r}, exit status {self.end()}") from None
        self._is_ready = True

    def _answer(self, deadline: float) -> Photo | ImageUrlError:
        """What the child says is believed no more than a picture is: it may be in the hands of one."""
        height, width = ANSWER.unpack(self._receive(ANSWER.size, deadline))
        if height == 0 and width <= MAX_REFUSAL_BYTES:
            return ImageUrlError(**json.loads(self._receive(width, deadline)))
        if not 0 < min(height, width) <= max(height, width) <= self._limits.max_side:
            raise ValueError(f"an answer of {height}x{width}")
        pixels = np.frombuffer(self._receive(height * width * 3, deadline), np.uint8).reshape(height, width, 3)
        pixels.flags.writeable = False
        return Photo(pixels)

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


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def child_environment() -> dict[str, str]:
    """What a child needs to import this package, and nothing that could be a secret."""
    return {
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",  # threads would take memory for nothing
        **MALLOC,
        **{name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
    }


def serve_pictures(requests: BinaryIO, answers: BinaryIO, limits: PhotoSettings, settings: DecoderSettings) -> None:
    """The child: answers pictures until there are no more."""
    for picture in sample_pictures():  # so that nothing is left to be loaded
        decode_photo(picture, PhotoSettings(min_side=1))
    confine(settings.max_memory_bytes)
    answers.write(READY)
    answers.flush()
    while header := requests.read(REQUEST.size):
        (size,) = REQUEST.unpack(header)
        data = requests.read(size)
        bound_cpu_time(settings.timeout_s)
        answers.writelines(answer_parts(data, limits))
        answers.flush()


def answer_parts(data: bytes, limits: PhotoSettings) -> Iterable[bytes | memoryview]:
    try:
        pixels = decode_photo(data, limits).pixels
    except ImageUrlError as error:
        refusal = json.dumps(error.data).encode()
        return ANSWER.pack(0, len(refusal)), refusal
    return ANSWER.pack(*pixels.shape[:2]), np.ascontiguousarray(pixels).data


def sample_pictures() -> list[bytes]:
    """One of each format, with a colour profile and EXIF."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = [BytesIO() for _ in FORMATS]
    for file, image_format in zip(files, FORMATS, strict=True):
        Image.new("RGB", (16, 16)).save(file, image_format, exif=exif, icc_profile=profile)
    return [file.getvalue() for file in files]


def confine(max_memory_bytes: int) -> None:
    """From here on this process opens no file and no socket, and gets this much memory besides what it has."""
    if sys.platform == "linux":  # macOS enforces no limit of memory
        max_bytes = data_bytes() + max_memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # those that are open: stdin, stdout, stderr


def bound_cpu_time(seconds: float) -> None:
    """Ends this process where it computes for so long, even if nobody watches it any more. In whole seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(time.process_time() + seconds), most))


def data_bytes() -> int:
    """Memory that this process asked for, whether it uses it or not: what RLIMIT_DATA counts, and the stack."""
    pages = Path("/proc/self/statm").read_text().split()[5]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    serve_pictures(
        sys.stdin.buffer,
        sys.stdout.buffer,
        PhotoSettings.model_validate_json(sys.argv[1]),
        DecoderSettings.model_validate_json(sys.argv[2]),
    )
