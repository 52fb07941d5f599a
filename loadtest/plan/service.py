"""What is planned with: the service of a config file, how long starts take, and what nodes cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field
from ray.serve._private.constants import DEFAULT_GRACEFUL_SHUTDOWN_WAIT_LOOP_S
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema

from deployments.model_memory import ModelMemory
from serve_app.catalog.catalog import Catalog
from serve_app.launcher import ServiceOptions, read_config
from serve_app.settings import Settings

PRICES = Path(__file__).with_name("prices.yaml")
SCALED = ("AvatarIngress", "AvatarWorker", "AvatarGenerator")


class Starts(BaseModel):
    """How long starts take, part by part (seconds), and how long stages take that are not simulated.

    The defaults are assumed: a GPU node of a cloud with the image on its disk, and weights on its own NVMe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    node_s: float = Field(150.0, ge=0)  # from the order to a node that takes replicas
    node_idle_s: float = Field(300.0, ge=0)  # without a replica until it goes: `idle_timeout_minutes` of cluster.yaml
    replica_s: float = Field(20.0, ge=0)  # a process that has imported torch and CUDA
    load_s_per_gb: float = Field(0.7, ge=0)  # of `weights_gb` and LoRAs: from the disk to the GPU
    warm_s: float = Field(8.0, ge=0)  # the first steps, which are profiled, with kernels from the cache
    cpu_replica_s: float = Field(8.0, ge=0)  # an ingress or a worker on a node that is there
    before_s: float = Field(0.4, ge=0)  # of a request: photo, face
    after_s: float = Field(0.4, ge=0)  # background, encoding, store
    kills_per_gpu_day: float = Field(0.0, ge=0)  # replicas that die by themselves

    def load_s(self, model: ModelMemory) -> float:
        """Seconds until a model draws: its weights are read, and its first steps made. Steps' memory is not read."""
        return model.weights_gb * self.load_s_per_gb + self.warm_s


class NodePrice(BaseModel):
    """A node with GPUs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int = Field(ge=1)
    per_hour: float = Field(ge=0)
    min_billed_s: float = Field(0.0, ge=0)
    interruptions_per_day: float = Field(0.0, ge=0)  # of a spot node


class Prices(BaseModel):
    """A file of prices, with its date and its source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    as_of: str
    source: str
    currency: str
    nodes: Mapping[str, NodePrice] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path) -> "Prices":
        """Raises: OSError; ValueError, of which pydantic's errors are."""
        try:
            content = yaml.safe_load(path.read_text())
            return cls.model_validate(content | {"as_of": str(content.get("as_of", ""))})
        except (yaml.YAMLError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Service:
    """What a config file deploys, as far as it is simulated."""

    settings: Settings
    scaling: Mapping[str, AutoscalingConfig]  # of the deployments of `SCALED`
    max_ongoing_requests: int  # of a generator
    graceful_shutdown_s: float  # likewise
    drain_look_s: float  # likewise: between two looks of a draining replica whether it has calls
    models: Mapping[str, str]  # of the apps, by their id

    @classmethod
    def read(cls, path: Path) -> "Service":
        """Raises: StartError where the file is invalid; ValueError where a deployment is missing."""
        config, settings = read_config(ServiceOptions(path))
        deployments = {each.name: each for application in config.applications for each in application.deployments}
        if missing := [name for name in SCALED if name not in deployments]:
            raise ValueError(f"{path} has no deployment {', '.join(missing)}")
        generator = deployments["AvatarGenerator"]
        apps = Catalog.read(settings.catalogs).usable(settings.license_mode)
        return cls(
            settings,
            {name: _scaling(deployments[name].autoscaling_config, deployments[name].num_replicas) for name in SCALED},
            int(generator.max_ongoing_requests),
            float(generator.graceful_shutdown_timeout_s),
            _drain_look_s(generator),
            {app_id: app.model for app_id, app in apps.items()},
        )

    def fixed(self, generators: int) -> "Service":
        """The same with so many generators, whatever the load."""
        return self.with_generator_scaling(AutoscalingConfig(min_replicas=generators, max_replicas=generators))

    def with_generator_scaling(self, config: AutoscalingConfig) -> "Service":
        """The same with another autoscaler of the generators."""
        return replace(self, scaling={**self.scaling, "AvatarGenerator": config})

    def with_generator_changes(self, changes: Mapping[str, Any]) -> "Service":
        """The same with other values of some settings of the generators' autoscaler. Raises: ValueError."""
        config = self.scaling["AvatarGenerator"]
        return self.with_generator_scaling(AutoscalingConfig(**config.model_dump() | changes))

    def with_up_to(self, generators: int) -> "Service":
        """The same with so many generators at most, and as many more of the others at most."""
        now = self.scaling["AvatarGenerator"].max_replicas
        most = {name: math.ceil(config.max_replicas * generators / now) for name, config in self.scaling.items()}
        scaling = {
            name: AutoscalingConfig(**config.model_dump() | {"max_replicas": max(config.min_replicas, most[name])})
            for name, config in self.scaling.items()
        }
        return replace(self, scaling=scaling)


def _drain_look_s(generator: DeploymentSchema) -> float:
    """Serve's default where the file says nothing."""
    told_s = generator.graceful_shutdown_wait_loop_s
    return float(told_s if isinstance(told_s, int | float) else DEFAULT_GRACEFUL_SHUTDOWN_WAIT_LOOP_S)


def _scaling(config: object, replicas: object) -> AutoscalingConfig:
    """A deployment without an autoscaler has one that changes nothing."""
    if isinstance(config, AutoscalingConfig):
        return config
    if isinstance(config, Mapping):
        return AutoscalingConfig(**config)
    number = replicas if isinstance(replicas, int) else 1
    return AutoscalingConfig(min_replicas=number, max_replicas=number)
