"""A Ray cluster of this machine alone, which other users of the machine cannot reach.

Ray by itself shares: its token is readable for all, its folder writable, and it listens on every interface. Whoever
reaches it can run code as its user.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import auto_init_hook, ray_constants
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from serve_app.backends.private_folder import ensure_private_folder, short_folder
from serve_app.backends.secrets import ensure_secret
from serve_app.replica_listener import LISTEN_ON_LOOPBACK, SETUP_HOOK

FOLDER = "ray"  # of the data directory: Ray's sessions with their logs, its sockets
RAY_TOKEN_FILE = "ray.token"
MAX_FOLDER_PATH = 37  # bytes; a socket's path has up to 68 more (66 on macOS), and may have 107 (103)
USAGE_STATS = "RAY_USAGE_STATS_ENABLED"
MIN_CPUS = 2  # what the embedded deployments need, also on a machine with one CPU
MEMORY_FOLDER = Path("/dev/shm")  # in-memory file system of Linux


class StartError(Exception):
    """The service did not start; the message says why."""


@contextlib.contextmanager
def local_ray(data_dir: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run Ray with this additional environment; the URL of its dashboard. The data directory must be private.

    Raises: StartError.
    """
    with contextlib.ExitStack() as stack:
        try:
            ensure_secret(data_dir / RAY_TOKEN_FILE, lambda: secrets.token_hex(32))
            folder = stack.enter_context(ray_folder(data_dir))
        except (OSError, ValueError) as error:
            raise StartError(f"The data directory cannot be used: {error}") from error
        stack.enter_context(_environment({**environment, **_private_environment(data_dir)}))
        stack.callback(ray.shutdown)  # also cleans up after an interrupted start
        with _own_sigterm_handler(), _on_loopback():
            dashboard_url = _start(folder)
        yield dashboard_url


def _private_environment(data_dir: Path) -> dict[str, str | None]:
    return {
        "RAY_AUTH_TOKEN_PATH": str(data_dir / RAY_TOKEN_FILE),
        "RAY_AUTH_TOKEN": None,  # would be taken instead
        "RAY_AUTH_MODE": None,  # without it, `ray.init` demands the token
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # as on macOS and Windows: 127.0.0.1 is the node's address
        SETUP_HOOK: LISTEN_ON_LOOPBACK,
        USAGE_STATS: os.environ.get(USAGE_STATS, "0"),  # by default Ray reports what it is used for, every hour
    }


def _start(folder: Path) -> str:
    """Raises: StartError."""
    # Threads of Serve's handles outlive this Ray; their next call would start another one, in the folder that goes.
    auto_init_hook.enable_auto_connect = False
    try:
        context = ray.init(
            address="local",  # never RAY_ADDRESS, which may name an unrelated cluster
            num_cpus=max(MIN_CPUS, os.cpu_count() or 1),
            namespace="serve",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
            **in_memory_only(),
        )
    except Exception as error:  # Ray raises plain Exceptions when its processes do not start in time
        raise StartError(f"Ray did not start: {error}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return f"http://{context.dashboard_url}"


def in_memory_only() -> dict[str, Any]:
    """Arguments of `ray.init` that keep objects, which include photos, off the disk when the object store is full.

    Objects that do not fit go to MEMORY_FOLDER, where Ray keeps its store anyway; when memory runs out, the request
    fails. By default Ray would spill to the session's folder on disk.
    """
    if not MEMORY_FOLDER.is_dir():
        return {}
    return {
        "_system_config": {"automatic_object_spilling_enabled": False},
        "object_spilling_directory": str(MEMORY_FOLDER),
    }


@contextlib.contextmanager
def ray_folder(data_dir: Path) -> Iterator[Path]:
    """The folder of Ray's sessions, by a path that is short enough for sockets; only the last session is kept.

    Raises: PermissionError where a folder belongs to another user; OSError.
    """
    folder = data_dir / FOLDER
    ensure_private_folder(folder)
    with (folder / "lock").open("ab") as lock:
        # Shared: with a broker elsewhere, several services can use one data directory.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for session in sorted(folder.glob("session_2*"))[:-1]:
                shutil.rmtree(session, ignore_errors=True)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if len(os.fsencode(folder)) <= MAX_FOLDER_PATH:
            yield folder
            return
        link = _short_link(data_dir)
        try:
            yield link
        finally:
            with contextlib.suppress(OSError):  # also where another service uses it
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                link.unlink()
                link.parent.rmdir()


def _short_link(data_dir: Path) -> Path:
    short = short_folder(data_dir)
    ensure_private_folder(short)
    link = short / FOLDER
    with contextlib.suppress(FileExistsError):
        link.symlink_to(data_dir / FOLDER, target_is_directory=True)
    return link


@contextlib.contextmanager
def _environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """The environment with these variables, or without those that are None; Ray's processes inherit it."""
    former = {name: os.environ.get(name) for name in values}
    try:
        _set_environment(values)
        yield
    finally:
        _set_environment(former)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    AuthenticationTokenLoader.instance().reset_cache()  # it has read the token once


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Has `ray.init` take 127.0.0.1 for this node, which it otherwise replaces by an address that others reach.

    Its processes then listen on the loopback interface only. Ray reads the variable for that when it is imported.
    """
    former = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = former


@contextlib.contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Keeps this process's SIGTERM handler, which `ray.init` replaces twice.

    First with one that raises SystemExit, then with the core worker's, in C++, which prints a stack and aborts.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    arrived = False
    try:
        yield
    except SystemExit as ended:
        arrived = ended.code == signal.SIGTERM
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
        if arrived:
            signal.raise_signal(signal.SIGTERM)
