"""The environment of a load test: machine, versions, and the service with its settings."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtest.load.run import Load
from serve_app.launcher import ServiceOptions, read_config

PACKAGES = ("face-avatar", "ray", "torch", "diffusers", "onnxruntime", "locust")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that this process runs on."""

    cores: int  # available to this process
    model: str
    memory_gib: float
    system: str

    @classmethod
    def this(cls) -> "Machine":
        """On Linux `cores` are those of this process's CPU affinity; elsewhere all."""
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(cores, _processor(), memory_bytes / 2**30, f"{platform.system()} {platform.machine()}")


@dataclass(frozen=True, slots=True)
class Setting:
    """`service` describes the target; `settings` are known for a service started by the test, with secrets masked."""

    service: str
    load: Load
    interrupted: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine.this)
    versions: dict[str, str] = field(
        default_factory=lambda: {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    )


def settings_of(options: ServiceOptions) -> dict[str, Any]:
    """The effective settings of a config file, without paths: of the deployments and of the application.

    Raises: StartError.
    """
    config, settings = read_config(options)
    deployments = [
        deployment.model_dump(mode="json", exclude_unset=True)
        for application in config.applications
        for deployment in application.deployments
    ]
    return {"application": settings.model_dump(mode="json", exclude={"data_dir"}), "deployments": deployments}


def _processor() -> str:
    """The model name of the processor."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
