import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from deployments.config import InsightFaceModelConfig
from serve_app.catalog import Catalog
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.local import ServiceOptions, read_config

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "serve_app" / "config" / "production.yaml"
ENVIRONMENT = CONFIG.with_name("production.env.example")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def deployments() -> dict[str, dict[str, Any]]:
    """The deployments of the production config by name."""
    config = yaml.safe_load(CONFIG.read_text())
    return {deployment["name"]: deployment for deployment in config["applications"][0]["deployments"]}


def test_the_cluster_file_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_gpu_nodes_start_from_zero_and_the_head_runs_no_model(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


def test_every_node_asks_for_the_clusters_token_and_has_the_services_environment(cluster: dict[str, Any]) -> None:
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]
    assert "/home/ubuntu/production.env" in cluster["file_mounts"]
    for side in ("head", "worker"):
        starts = [command for command in cluster[f"{side}_start_ray_commands"] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
        assert all("set -a; . ~/production.env; set +a;" in command for command in starts)


def test_the_dashboard_listens_on_loopback_alone(cluster: dict[str, Any]) -> None:
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


def test_every_node_type_repeats_the_common_commands_which_its_own_replace(cluster: dict[str, Any]) -> None:
    for name in ("cpu", "gpu"):
        commands = cluster["available_node_types"][name]["worker_setup_commands"]
        assert commands[: len(cluster["setup_commands"])] == cluster["setup_commands"]


def test_every_stage_fits_one_kind_of_node_and_no_cpu_stage_a_gpu_node(
    cluster: dict[str, Any], deployments: dict[str, dict[str, Any]]
) -> None:
    types = {name: kind["resources"] for name, kind in cluster["available_node_types"].items()}
    for name, deployment in deployments.items():
        options = deployment["ray_actor_options"]
        wanted = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
        fitting = [kind for kind, has in types.items() if all(has.get(key, 0) >= n for key, n in wanted.items())]
        assert fitting == (["gpu"] if "num_gpus" in options else ["cpu"]), name


def test_the_embedders_and_a_generator_share_one_gpu_exactly(deployments: dict[str, dict[str, Any]]) -> None:
    embedder, generator = deployments["FaceEmbedder"], deployments["AvatarGenerator"]
    embedders = embedder["ray_actor_options"]["num_gpus"] * embedder["autoscaling_config"]["max_replicas"]
    assert embedders + generator["ray_actor_options"]["num_gpus"] == pytest.approx(1)


def test_what_the_nodes_fetch_is_what_the_stages_load(cluster: dict[str, Any]) -> None:
    settings = read_config(ServiceOptions(config=CONFIG))[1]
    catalog = Catalog.read(settings.catalogs)
    assert isinstance(settings.face.model, InsightFaceModelConfig)
    needs = {
        "cpu": {settings.background.model.model_path},
        "gpu": {
            settings.face.model.pack,
            *(path for model in settings.generator.models.values() for path in (model.path, model.ip_adapter)),
        },
    }
    for kind, paths in needs.items():
        *_, prefetch = cluster["available_node_types"][kind]["worker_setup_commands"]
        command, _, models_dir = prefetch.partition(" --models-dir ")
        assert models_dir == str(settings.models_dir)
        files = [f"models:{file.path}" for file in catalog.files(command.split("models prefetch ")[1].split())]
        assert all(any(file.startswith(str(path)) for file in files) for path in paths), kind


def test_a_shell_reads_the_example_of_the_environment() -> None:
    script = f"set -eu; set -a; . {ENVIRONMENT}; env -0"
    environment = subprocess.run(["sh", "-c", script], env={}, check=True, capture_output=True, text=True).stdout
    values = dict(line.split("=", 1) for line in environment.split("\0") if line)
    assert values["FACE_AVATAR_BROKER__URL"].startswith("rediss://")
    assert values["FACE_AVATAR_STORE__URL"].startswith("s3://")
    assert values[PROXY_CALLBACK] == MIDDLEWARES
