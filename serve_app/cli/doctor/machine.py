"""Checks of the machine: versions, processors, memory, disk, and the port to listen on."""

import os
import platform
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import httpx
from packaging.requirements import Requirement
from ray.serve.schema import ServeDeploySchema

from serve_app.cli.doctor.finding import Finding, fail, ok, warn
from serve_app.launcher import check_port_free
from serve_app.local_ray import StartError

PACKAGE = "face-avatar"
MIN_MEMORY_GB = 4.0
SCARCE_DISK_GB, MIN_DISK_GB = 5.0, 0.5
ASK_TIMEOUT_S = 5


def check_versions(requirements: Iterable[str] | None = None) -> Finding:
    """Whether the installed packages meet these requirements, by default those of this package."""
    needed = [Requirement(line) for line in requirements or metadata.requires(PACKAGE) or ()]
    mismatches = [text for requirement in needed if (text := _mismatch(requirement))]
    if mismatches:
        return fail("versions", "; ".join(mismatches), f"pip install --upgrade {PACKAGE}, in an environment of its own")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("ray", "torch", "diffusers"))
    return ok("versions", f"Python {platform.python_version()}, {versions}")


def _mismatch(requirement: Requirement) -> str:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, not {requirement.specifier}"


def check_processors(schema: ServeDeploySchema, count: int) -> Finding:
    """Whether the minimum number of replicas fits this machine; a cluster has more machines."""
    needed = sum(_least_cpus(schema))
    if count < needed and not on_many_nodes(schema):
        remedy = "Expect it to be slow, or lower num_cpus and min_replicas in the configuration."
        return warn("processors", f"{count}, while the stages ask for {needed:g}", remedy)
    return ok("processors", f"{count}; the stages ask for {needed:g} at least")


def _least_cpus(schema: ServeDeploySchema) -> Iterable[float]:
    for application in schema.applications:
        for deployment in application.deployments:
            options = deployment.model_dump(exclude_unset=True)
            scaled = (options.get("autoscaling_config") or {}).get("min_replicas", 1)
            replicas = options.get("num_replicas", scaled)
            yield float(options.get("ray_actor_options", {}).get("num_cpus", 1)) * int(replicas)


def on_many_nodes(schema: ServeDeploySchema) -> bool:
    """Whether the configuration is for a cluster: Serve then has a proxy on every node."""
    return str(schema.proxy_location).rpartition(".")[2] == "EveryNode"


def memory_gb() -> float:
    """The machine's memory in GB (1e9 bytes), whatever a container may use of it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def check_memory(total_gb: float) -> Finding:
    """Warns below MIN_MEMORY_GB; never fails."""
    if total_gb < MIN_MEMORY_GB:
        return warn("memory", f"{total_gb:.1f} GB", f"{MIN_MEMORY_GB:g} GB are the least for all stages together.")
    return ok("memory", f"{total_gb:.1f} GB")


def check_disk(folder: Path) -> Finding:
    """Free space on the disk of a folder, which need not exist yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    reason = f"{free_gb:.1f} GB free under {existing}"
    if free_gb < MIN_DISK_GB:
        return fail("disk", reason, "Make room: results and records could not be written.")
    if free_gb < SCARCE_DISK_GB:
        return warn("disk", reason, "Make room, or choose another --data-dir.")
    return ok("disk", reason)


def check_port(host: str, port: int) -> Finding:
    """Whether the port is free or already used by this service."""
    try:
        check_port_free(host, port)
    except StartError:
        if _is_ours(host, port):
            return ok("port", f"this service answers on {host}:{port}")
        remedy = "Choose another --port, or end the other program."
        return fail("port", f"something else listens on {host}:{port}", remedy)
    return ok("port", f"{host}:{port} is free")


def _is_ours(host: str, port: int) -> bool:
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    try:
        answer = httpx.get(f"http://{local}:{port}/healthz", timeout=ASK_TIMEOUT_S, trust_env=False)
        return bool(answer.json()["output"]["healthy"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return False
