"""The service with a denoiser that sleeps, and styles that have a LoRA each: rows of one step wear different ones.

An application for a Serve config file, as `sleeping`. How much longer the LoRAs make its steps is read from a variable
of the generator's environment.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ray import serve
from safetensors.numpy import save_file

from deployments.diffusion.deployment import AvatarGenerator, LoadedModel
from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.styles import STYLES
from loadtest.bench.peers.load import SERVICE, service_config
from loadtest.bench.peers.load import serve as serve_command
from loadtest.bench.peers.painters import CURVE
from loadtest.bench.peers.sleeping import SleepingModel
from serve_app.app import graph
from serve_app.catalog.catalog import CATALOGUES
from serve_app.settings import Settings

APP = "loadtest.bench.peers.styled_service:build_app"
COSTS = "BENCH_LORA_COSTS"
LORAS = "loras"


class StyledGenerator(AvatarGenerator):
    """As `SleepingGenerator`, with steps that take longer where their images wear LoRAs."""

    def _load(self, name: str) -> LoadedModel:
        self._latency_model.set_profile(name, CURVE.profile())
        costs = LoraCosts(**json.loads(os.environ[COSTS]))
        return LoadedModel(SleepingModel(CURVE, costs.slots), checker=None)


def build_app(settings: Settings) -> serve.Application:
    """As `serve_app.app:build_app`."""
    return graph(settings, StyledGenerator)


def styled_command(costs: LoraCosts, port: int, folder: Path) -> list[str]:
    """How to start the service; its config, catalogue and LoRA files are written into `folder`."""
    config = service_config(CURVE.name)
    (application,) = config["applications"]
    application["import_path"] = APP
    application["args"] |= {"catalogs": [str(write_catalogue(folder))], "models_dir": str(folder)}
    (generator,) = (each for each in application["deployments"] if each["name"] == "AvatarGenerator")
    generator["ray_actor_options"]["runtime_env"]["env_vars"][COSTS] = json.dumps(asdict(costs))
    return serve_command(config, port, folder)


def write_catalogue(folder: Path) -> Path:
    """The app of the package with these styles, each with a file of its own that nothing reads as a LoRA."""
    catalogue: dict[str, Any] = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())
    (folder / LORAS).mkdir()
    known: dict[str, Mapping[str, Any]] = {}
    styles: dict[str, Mapping[str, Any]] = {}
    for number, style in enumerate(STYLES):
        file = folder / LORAS / f"{style}.safetensors"
        save_file({"number": np.array([number])}, file)
        known[file.name] = {"size": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
        styles[style] = {"title": style, "prompt": f"{{prompt}}, {style}", "lora": {"file": f"{LORAS}/{file.name}"}}
    catalogue["apps"][SERVICE] |= {"styles": styles, "downloads": [LORAS]}
    source = {"url": "https://models.example/{revision}", "revision": "1", "licence_url": "https://models.example"}
    catalogue["downloads"] = {LORAS: {**source, "licence": "Apache-2.0", "folder": LORAS, "files": known}}
    path = folder / "catalogue.yaml"
    path.write_text(yaml.safe_dump(catalogue))
    return path
