"""A whole service on this machine: its own Ray, started and ended with it."""

import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from serve_app.backends.embedded_valkey import FolderInUseError, check_folder_free
from serve_app.backends.secrets import ensure_token
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.settings import Settings

CONFIG = Path(__file__).parent / "config" / "embedded.yaml"
QUIET_PORTS = range(20_000, 30_000)  # above those of Ray's workers, below those that systems give out by themselves
MIN_CPUS = 2  # the embedded deployments share 2, also where the machine has one
START_TIMEOUT_S = 300
DRAIN_TIMEOUT_S = 8
MEMORY_FOLDER = Path("/dev/shm")  # a file system in memory, which Linux has


class StartError(Exception):
    """The service did not come up; the message says why."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What the command line changes in a config file; None leaves the file's own value."""

    config: Path = CONFIG
    host: str | None = None
    port: int | None = None
    data_dir: Path | None = None
    allow_private_urls: bool = False


@dataclass(frozen=True, slots=True)
class RunningService:
    url: str
    dashboard_url: str
    data_dir: Path


def read_config(options: ServiceOptions) -> tuple[ServeDeploySchema, Settings]:
    """The Serve config with the options put in, and the settings that its application will have.

    Raises: StartError where the file cannot be read or does not fit.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(options.config.read_text())
        http = raw.setdefault("http_options", {})
        args = raw["applications"][0].setdefault("args", {})
        if options.host is not None:
            http["host"] = options.host
        if options.port is not None:
            http["port"] = options.port
        if options.data_dir is not None:
            args["data_dir"] = str(options.data_dir.expanduser().absolute())
        if options.allow_private_urls:
            args.setdefault("fetch", {})["allow_private"] = True
        return ServeDeploySchema.model_validate(raw), Settings(**args)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise StartError(f"{options.config}: {error}") from error


@contextlib.contextmanager
def run_service(options: ServiceOptions, report: Callable[[str], None] = lambda _: None) -> Iterator[RunningService]:
    """Start Ray and the application; ready inside the block, all ended after it.

    `report` is told what is being waited for. Raises: StartError.
    """
    config, settings = read_config(options)
    host, port = config.http_options.host, config.http_options.port
    _check_port_free(host, port)
    try:
        ensure_token(settings.data_dir)
        if settings.broker.url is None:
            check_folder_free(settings.data_dir)
    except (OSError, ValueError, FolderInUseError) as error:
        raise StartError(f"The data directory cannot be used: {error}") from error
    try:
        report("starting Ray")
        dashboard_url = _start_ray()
        report("starting the stages")
        serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
        _deploy(config)
        _wait_until_running(config, report)
        shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        yield RunningService(f"http://{shown_host}:{port}", dashboard_url, settings.data_dir)
    finally:
        report("stopping")
        _stop(config)


def _start_ray() -> str:
    """Start a cluster of our own and give its dashboard's URL. Raises: StartError."""
    os.environ[PROXY_CALLBACK] = MIDDLEWARES  # for the proxy, which inherits it
    try:
        context = ray.init(
            address="local",  # always: the address in the environment may belong to somebody else
            num_cpus=max(MIN_CPUS, os.cpu_count() or 1),
            namespace="serve",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **in_memory_only(),
        )
    except Exception as error:  # Ray raises plain Exceptions where its processes do not come up in time
        raise StartError(f"Ray did not start: {error}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return f"http://{context.dashboard_url}"


def in_memory_only() -> dict[str, Any]:
    """Arguments of `ray.init` that keep objects, photos among them, off the disks when the object store is full.

    What does not fit goes to the folder named last, where Ray has its store anyway, until memory is at an end: then the
    request that wanted more is refused. Without them Ray writes to the session's folder.
    """
    if not MEMORY_FOLDER.is_dir():
        return {}
    return {
        "_system_config": {"automatic_object_spilling_enabled": False},
        "object_spilling_directory": str(MEMORY_FOLDER),
    }


def _deploy(config: ServeDeploySchema) -> None:
    # What `serve run FILE` does; Serve has no public function for it.
    _get_global_client().deploy_apps(config)


def _wait_until_running(config: ServeDeploySchema, report: Callable[[str], None]) -> None:
    names = [application.name for application in config.applications]
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        applications = serve.status().applications
        states = [applications[name] for name in names if name in applications]
        if failed := [state for state in states if state.status == "DEPLOY_FAILED"]:
            raise StartError(failed[0].message)
        if len(states) == len(names) and all(state.status == "RUNNING" for state in states):
            return
        waiting = [
            name for state in states for name, deployment in state.deployments.items() if deployment.status != "HEALTHY"
        ]
        if waiting:
            report("loading " + ", ".join(waiting))
        time.sleep(0.1)
    raise StartError(f"The stages were not ready within {START_TIMEOUT_S} s.")


def _stop(config: ServeDeploySchema) -> None:
    """End the replicas gracefully, but not for longer than DRAIN_TIMEOUT_S, then everything."""
    if ray.is_initialized():
        # A deleted application ends the work that it has; Ray's own shutdown just ends every process.
        with contextlib.suppress(Exception):  # whatever is wrong with Serve, Ray is ended next
            _drain([application.name for application in config.applications])
    ray.shutdown()  # also what an interrupted start left behind


def _drain(names: list[str]) -> None:
    # Not by `serve.delete` in a thread: one that outlives its time finds no Ray, and starts another that nobody ends.
    controller = _get_global_client()._controller
    controller.delete_apps.remote(names)
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while (left_s := deadline - time.monotonic()) > 0 and ray.get(
        controller.list_serve_statuses.remote(), timeout=left_s
    ):
        time.sleep(0.1)


def _check_port_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now, nor will by chance: Ray and the system take theirs from other ranges.

    Raises: StartError.
    """
    for port in random.sample(QUIET_PORTS, len(QUIET_PORTS)):
        with contextlib.suppress(StartError):
            _check_port_free(host, port)
            return port
    raise StartError(f"No port of {QUIET_PORTS.start} to {QUIET_PORTS.stop - 1} is free on {host}.")
