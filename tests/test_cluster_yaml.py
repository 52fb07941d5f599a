import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_the_cluster_file_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)


def test_gpu_nodes_start_from_zero_and_the_head_runs_no_model(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert types["gpu"]["min_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


def test_every_node_asks_for_the_clusters_token(cluster: dict[str, Any]) -> None:
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]
    for side in ("head", "worker"):
        starts = [command for command in cluster[f"{side}_start_ray_commands"] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
