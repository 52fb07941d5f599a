"""Runs a complete service on this machine, with its own Ray cluster."""

import contextlib
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
from serve_app.backends.secrets import TOKEN_FILE, ensure_token
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK, check_supported
from serve_app.http_protocol import UnsupportedServerError
from serve_app.local_ray import StartError, local_ray
from serve_app.settings import Settings

CONFIG = Path(__file__).parent / "config" / "embedded.yaml"
QUIET_PORTS = range(20_000, 30_000)  # above Ray's worker ports, below the ephemeral range
START_TIMEOUT_S = 300
DRAIN_TIMEOUT_S = 8


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Command-line overrides of a config file; None keeps the file's value."""

    config: Path = CONFIG
    host: str | None = None
    port: int | None = None
    data_dir: Path | None = None
    allow_private_urls: bool = False


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service inside its `run_service` block; `url` is the loopback one where it listens on all interfaces."""

    url: str
    dashboard_url: str
    data_dir: Path

    @property
    def token(self) -> str:
        """The token of its data directory. Raises: OSError where its file is gone."""
        return (self.data_dir / TOKEN_FILE).read_text().strip()


def read_config(options: ServiceOptions) -> tuple[ServeDeploySchema, Settings]:
    """The Serve config with the overrides applied, and the settings of its application.

    Raises: StartError where the file cannot be read or is invalid.
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
    """Start Ray and the application; ready inside the block, stopped after it.

    `report` receives the current phase of the start. Raises: StartError.
    """
    config, settings = read_config(options)
    host, port = config.http_options.host, config.http_options.port
    check_port_free(host, port)
    try:
        check_supported()  # the proxy would only say so in its log
    except UnsupportedServerError as error:
        raise StartError(str(error)) from error
    _prepare_data_dir(settings)
    report("starting Ray")
    with local_ray(settings.data_dir, {PROXY_CALLBACK: MIDDLEWARES}) as dashboard_url:  # the proxy inherits it
        try:
            report("starting the stages")
            serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
            _deploy(config)
            _wait_until_running(config, report)
            shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            yield RunningService(f"http://{shown_host}:{port}", dashboard_url, settings.data_dir)
        finally:
            report("stopping")
            _stop(config)


def _prepare_data_dir(settings: Settings) -> None:
    """Raises: StartError."""
    try:
        ensure_token(settings.data_dir)
        if settings.broker.url is None:
            check_folder_free(settings.data_dir)
    except (OSError, ValueError, FolderInUseError) as error:
        raise StartError(f"The data directory cannot be used: {error}") from error


def _deploy(config: ServeDeploySchema) -> None:
    # As `serve run FILE` does; Serve has no public function for it.
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
    """Stop gracefully: answer what was asked, hand back the tasks, each within DRAIN_TIMEOUT_S."""
    names = [application.name for application in config.applications]
    for step in (_await_answers, _delete):
        with contextlib.suppress(Exception):  # Ray is shut down next, whatever fails in Serve
            step(names)


def _await_answers(names: list[str]) -> None:
    """Wait until no ingress has a request.

    An application that is deleted loses its idle stages at once, also those that a request has yet to reach.
    """
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    ingresses = list(_ingress_replicas(names))
    while (left_s := deadline - time.monotonic()) > 0:
        counts = ray.get([replica.get_num_ongoing_requests.remote() for replica in ingresses], timeout=left_s)
        if not any(counts):
            return
        time.sleep(0.1)


def _ingress_replicas(names: list[str]) -> Iterator[Any]:
    client = _get_global_client()
    applications = client.get_serve_details()["applications"]
    for name in names:
        ingress = ray.get(client._controller.get_ingress_deployment_name.remote(name), timeout=DRAIN_TIMEOUT_S)
        for replica in applications[name]["deployments"][ingress]["replicas"]:
            yield ray.get_actor(replica["actor_name"], namespace="serve")


def _delete(names: list[str]) -> None:
    """Delete applications, which lets their replicas finish; Ray's shutdown just kills every process."""
    # Not `serve.delete` in a thread: one that outlives the timeout finds no Ray and starts a new one.
    controller = _get_global_client()._controller
    controller.delete_apps.remote(names)
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while (left_s := deadline - time.monotonic()) > 0 and ray.get(
        controller.list_serve_statuses.remote(), timeout=left_s
    ):
        time.sleep(0.1)


def check_port_free(host: str, port: int) -> None:
    """Raises: StartError where something listens on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port.") from error


def free_port(host: str = "127.0.0.1") -> int:
    """A free port, outside the ranges from which Ray and the system assign ports.

    Raises: StartError.
    """
    for port in random.sample(QUIET_PORTS, len(QUIET_PORTS)):
        with contextlib.suppress(StartError):
            check_port_free(host, port)
            return port
    raise StartError(f"No port of {QUIET_PORTS.start} to {QUIET_PORTS.stop - 1} is free on {host}.")
