import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray._private.services import RAYLET_EXECUTABLE
from ray.autoscaler._private.util import prepare_config, validate_config

from serve_app.catalog.catalog import Catalog
from serve_app.cli.doctor.files import model_paths
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.launcher import ServiceOptions, read_config
from serve_app.local_ray import MEMORY_FOLDER
from tests.support.production import worker_environment

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve_app" / "config" / "production.yaml"
ENVIRONMENT = CONFIG.with_name("production.env.example")
KUBERAY = CONFIG.with_name("kuberay.yaml")
LOCAL = CONFIG.with_name("local-cluster.yaml")
RECONNECT_TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"
GPU_TYPES = ["gpu", "gpu_on_demand"]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def deployments() -> dict[str, dict[str, Any]]:
    """The deployments of the production config by name."""
    config = yaml.safe_load(CONFIG.read_text())
    return {deployment["name"]: deployment for deployment in config["applications"][0]["deployments"]}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = next(yaml.safe_load_all(KUBERAY.read_text()))
    return loaded


@pytest.fixture(scope="module")
def policy() -> dict[str, Any]:
    _service, loaded = yaml.safe_load_all(KUBERAY.read_text())
    return loaded


@pytest.fixture(scope="module")
def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The templates of all pods of the manifest, the head's first."""
    cluster = manifest["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.fixture(scope="module")
def groups(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The worker groups of the manifest, by the names that cluster.yaml has for them."""
    listed = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return {group["groupName"].replace("-", "_"): group for group in listed}


def test_the_cluster_file_fits_rays_own_schema_and_check(cluster: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(cluster))


def test_gpu_nodes_start_from_zero_and_the_head_runs_no_model(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    for name in GPU_TYPES:
        assert types[name]["min_workers"] == 0
        assert types[name]["resources"]["GPU"] == 1
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


def test_a_gpu_node_is_a_spot_node_first_and_otherwise_the_same_on_demand(cluster: dict[str, Any]) -> None:
    spot, on_demand = (cluster["available_node_types"][name] for name in GPU_TYPES)
    assert spot["priority"] > on_demand["priority"]
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert {**spot, "priority": 0} == {**on_demand, "priority": 0}


def test_every_node_asks_for_the_clusters_token_and_has_the_services_environment(cluster: dict[str, Any]) -> None:
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert "/home/ray/production.env" in cluster["file_mounts"]
    for side in ("head", "worker"):
        starts = [command for command in cluster[f"{side}_start_ray_commands"] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)
        assert all("set -a; . ~/production.env; set +a;" in command for command in starts)


def test_the_dashboard_listens_on_loopback_alone(cluster: dict[str, Any]) -> None:
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])


@pytest.mark.parametrize("password", [None, "two words"])
def test_the_head_knows_the_redis_of_the_clusters_state_where_there_is_one(
    cluster: dict[str, Any], tmp_path: Path, password: str | None
) -> None:
    lines = f"RAY_REDIS_ADDRESS=redis:6379\nRAY_REDIS_PASSWORD='{password}'\n" if password else ""
    (tmp_path / "production.env").write_text(lines)
    *_, start = cluster["head_start_ray_commands"]
    script = f'ray() {{ printf "%s\\n" "$@"; }}\n{start}'
    printed = subprocess.run(
        ["sh", "-c", script], env={"HOME": str(tmp_path)}, check=True, capture_output=True, text=True
    )
    assert [line for line in printed.stdout.splitlines() if "redis" in line] == (
        [f"--redis-password={password}"] if password else []
    )


def test_nodes_wait_for_another_head_longer_than_its_machine_takes_to_start_again(manifest: dict[str, Any]) -> None:
    assert int(worker_environment()[RECONNECT_TIMEOUT]) >= 600
    assert RECONNECT_TIMEOUT.encode() in Path(RAYLET_EXECUTABLE).read_bytes()  # Ray ignores a variable it does not know
    assert "gcsFaultToleranceOptions" in manifest["spec"]["rayClusterConfig"]  # KubeRay then sets it by itself


def test_no_head_lets_objects_go_to_a_disk(cluster: dict[str, Any], manifest: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "production.env").write_text("")
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
    (by_hand,) = re.findall(r"--system-config=\S+", LOCAL.read_text())
    kubernetes = f"--system-config={head['system-config']}"
    for start in (cluster["head_start_ray_commands"][-1], f"ray {kubernetes}", f"ray {by_hand}"):
        script = f'ray() {{ printf "%s\\n" "$@"; }}\n{start}'
        printed = subprocess.run(["sh", "-c", script], env={"HOME": str(tmp_path)}, check=True, capture_output=True)
        (config,) = re.findall(r"^--system-config=(.*)$", printed.stdout.decode(), re.MULTILINE)
        assert json.loads(config) == {"automatic_object_spilling_enabled": False}


def test_every_stage_fits_one_kind_of_node_and_no_cpu_stage_a_gpu_node(
    cluster: dict[str, Any], deployments: dict[str, dict[str, Any]]
) -> None:
    types = {name: kind["resources"] for name, kind in cluster["available_node_types"].items()}
    for name, deployment in deployments.items():
        options = deployment["ray_actor_options"]
        wanted = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
        fitting = [kind for kind, has in types.items() if all(has.get(key, 0) >= n for key, n in wanted.items())]
        assert fitting == (GPU_TYPES if "num_gpus" in options else ["cpu"]), name


def test_the_embedders_and_a_generator_share_one_gpu_exactly(deployments: dict[str, dict[str, Any]]) -> None:
    embedder, generator = deployments["FaceEmbedder"], deployments["AvatarGenerator"]
    embedders = embedder["ray_actor_options"]["num_gpus"] * embedder["autoscaling_config"]["max_replicas"]
    assert embedders + generator["ray_actor_options"]["num_gpus"] == pytest.approx(1)


def test_torch_reads_the_options_of_its_allocator(deployments: dict[str, dict[str, Any]]) -> None:
    variables = deployments["AvatarGenerator"]["ray_actor_options"]["runtime_env"]["env_vars"]
    read = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    command = [sys.executable, "-c", read]
    printed = subprocess.run(command, env=os.environ | variables, check=True, capture_output=True, text=True)
    assert "expandable_segments:True" in printed.stdout


def test_every_stage_reacts_to_a_burst_at_once_and_lets_go_slowly(deployments: dict[str, dict[str, Any]]) -> None:
    for name, deployment in deployments.items():
        scaling = deployment["autoscaling_config"]
        # Until a burst fills the mean over the look-back, is reported, and is decided on.
        seen_s = scaling["look_back_period_s"] + 2 * scaling["metrics_interval_s"] + scaling["upscale_delay_s"]
        assert seen_s < 2, name
        assert scaling["downscale_delay_s"] >= 60, name


def test_what_the_nodes_fetch_is_what_the_stages_load(cluster: dict[str, Any]) -> None:
    settings = read_config(ServiceOptions(config=CONFIG))[1]
    catalog = Catalog.read(settings.catalogs)
    matting = {settings.models_dir / "rembg" / "birefnet-general-lite.onnx"}
    needs = {"cpu": matting, "gpu": set(model_paths(settings)) - matting}
    assert matting < set(model_paths(settings))
    for kind, paths in needs.items():
        (prefetch,) = cluster["available_node_types"][kind]["worker_setup_commands"]
        command, _, models_dir = prefetch.partition(" --models-dir ")
        assert models_dir == str(settings.models_dir)
        files = [f"{models_dir}/{file.path}" for file in catalog.files(command.split("models prefetch ")[1].split())]
        assert all(any(file.startswith(str(path)) for file in files) for path in paths), kind


@pytest.mark.parametrize(
    ("disks", "mounts", "is_mounted", "done"),
    [
        ("/dev/nvme0n1 Amazon Elastic Block Store", "", False, []),  # no disk of its own
        (
            "/dev/nvme0n1 Amazon Elastic Block Store\\n/dev/nvme1n1 Amazon EC2 NVMe Instance Storage",
            "",
            False,
            ["mkdir -p /models", "mkfs.ext4 -qF /dev/nvme1n1", "mount -o noatime /dev/nvme1n1 /models"],
        ),
        (
            "/dev/nvme1n1 Amazon EC2 NVMe Instance Storage",
            "\\n/opt/dlami/nvme",  # the disk itself is not mounted, its logical volume is
            False,
            ["mkdir -p /models", "mkdir -p /opt/dlami/nvme/models", "mount --bind /opt/dlami/nvme/models /models"],
        ),
        ("/dev/nvme1n1 Amazon EC2 NVMe Instance Storage", "/models", True, []),  # `ray up` again
    ],
)
def test_weights_lie_on_the_nvme_of_the_machine_where_it_has_one(
    cluster: dict[str, Any], disks: str, mounts: str, is_mounted: bool, done: list[str]
) -> None:
    script = f"""
    sudo() {{ echo "$*"; }}
    mountpoint() {{ {str(is_mounted).lower()}; }}
    lsblk() {{ case $1 in -dnpo) printf '{disks}\\n';; *) printf '{mounts}\\n';; esac; }}
    {cluster["initialization_commands"][0]}"""
    printed = subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == done


def test_nodes_fetch_from_the_bucket_that_the_environment_names(
    cluster: dict[str, Any], manifest: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "production.env").write_text("FACE_AVATAR_MODELS_BUCKET=s3://models\n")
    for kind in ("cpu", *GPU_TYPES):
        (command,) = cluster["available_node_types"][kind]["worker_setup_commands"]
        script = f"face-avatar() {{ env; }}\n{command}"
        printed = subprocess.run(["bash", "-c", script], env={"HOME": str(tmp_path)}, check=True, capture_output=True)
        assert b"FACE_AVATAR_MODELS_BUCKET=s3://models" in printed.stdout
    for group in manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        (init,) = group["template"]["spec"]["initContainers"]
        assert init["envFrom"] == [{"secretRef": {"name": "face-avatar-env"}}]


def test_a_shell_reads_the_example_of_the_environment() -> None:
    script = f"set -eu; set -a; . {ENVIRONMENT}; env -0"
    environment = subprocess.run(["sh", "-c", script], env={}, check=True, capture_output=True, text=True).stdout
    values = dict(line.split("=", 1) for line in environment.split("\0") if line)
    assert values["FACE_AVATAR_BROKER__URL"].startswith("rediss://")
    assert values["FACE_AVATAR_STORE__URL"].startswith("s3://")
    assert values[PROXY_CALLBACK] == MIDDLEWARES
    assert values["RAY_object_spilling_directory"] == str(MEMORY_FOLDER)


def strict(schema: Any) -> Any:
    """A schema of Kubernetes under which a field that it does not know is an error; there such a field is dropped."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def test_the_manifest_fits_kuberays_schema(manifest: dict[str, Any]) -> None:
    # `openAPIV3Schema` of v1 in ray-operator/config/crd/bases/ray.io_rayservices.yaml of KubeRay 1.7.0 (Apache-2.0),
    # without `status` and descriptions.
    schema = strict(json.loads(gzip.decompress(Path(__file__).with_name("rayservice.schema.json.gz").read_bytes())))
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft7Validator(schema)  # `jsonschema.validate` would check the schema first, for seconds
    validator.validate(manifest)
    misspelt = manifest | {"spec": manifest["spec"] | {"serveConfigV3": ""}}
    with pytest.raises(jsonschema.ValidationError, match="serveConfigV3"):
        validator.validate(misspelt)


def test_the_manifest_serves_what_production_yaml_says(manifest: dict[str, Any]) -> None:
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == yaml.safe_load(CONFIG.read_text())
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__


def test_the_groups_of_the_manifest_are_the_node_types_of_the_cluster(
    cluster: dict[str, Any], manifest: dict[str, Any], groups: dict[str, dict[str, Any]]
) -> None:
    types = {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    assert groups.keys() == types.keys()
    for name, group in groups.items():
        kind, start = types[name], group["rayStartParams"]
        # KubeRay puts each value into a shell's command line as it is.
        given = json.loads(json.loads(start.get("resources", '"{}"')))
        has = {"CPU": int(start["num-cpus"]), "GPU": int(start.get("num-gpus", 0)), **given}
        assert {key: value for key, value in has.items() if value} == kind["resources"]
        assert (group["minReplicas"], group["maxReplicas"]) == (kind["min_workers"], kind["max_workers"])
        assert group.get("priority", 0) == kind.get("priority", 0)
        (fetching,) = group["template"]["spec"]["initContainers"]
        assert kind["worker_setup_commands"][-1].endswith("; " + " ".join(fetching["command"]))
    head = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]
    assert (head["num-cpus"], head["num-gpus"]) == ("0", "0")
    options = manifest["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert options["idleTimeoutSeconds"] == 60 * cluster["idle_timeout_minutes"]


def test_a_pod_has_the_time_that_a_replica_takes_to_end(
    groups: dict[str, dict[str, Any]], deployments: dict[str, dict[str, Any]]
) -> None:
    longest_s = max(deployment["graceful_shutdown_timeout_s"] for deployment in deployments.values())
    for group in groups.values():
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > longest_s


def test_no_container_is_root_or_can_become_it(manifest: dict[str, Any], pods: list[dict[str, Any]]) -> None:
    wanted = {
        "runAsNonRoot": True,
        "runAsUser": 1000,  # `ray` in Ray's images
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    specs = [pod["spec"] for pod in pods]
    containers = [each for spec in specs for each in (*spec["containers"], *spec.get("initContainers", ()))]
    autoscaler = manifest["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert all(each["securityContext"] == wanted for each in (*containers, autoscaler))
    assert [spec.get("automountServiceAccountToken") for spec in specs] == [None, False, False, False]


def test_strangers_reach_the_proxies_of_the_pods_alone(policy: dict[str, Any], pods: list[dict[str, Any]]) -> None:
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert all(selected <= pod["metadata"]["labels"].items() for pod in pods)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for_anybody = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    port = yaml.safe_load(CONFIG.read_text())["http_options"]["port"]
    assert for_anybody == [[{"port": port}]]
    (rule,) = policy["spec"]["egress"]
    assert all(peer["ipBlock"]["except"] for peer in rule["to"])


def test_the_local_cluster_has_the_same_node_types(cluster: dict[str, Any]) -> None:
    local, shared = yaml.safe_load(LOCAL.read_text()), ("resources", "min_workers", "max_workers", "priority")
    types = {name: kind for name, kind in local["available_node_types"].items() if name != local["head_node_type"]}
    for kind in types.values():
        del kind["resources"]["object_store_memory"]
    real = {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    for key in shared:
        assert {name: kind.get(key) for name, kind in types.items()} == {
            name: kind.get(key) for name, kind in real.items()
        }


def test_docker_and_kubectl_read_of_the_environment_what_a_shell_reads() -> None:
    """They take what is behind the first `=` as it is, quotes and all."""
    values = re.findall(r"^(?:# )?[A-Za-z_]+=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert len(values) > 8
    assert not [value for value in values if set(value) & set("'\"$&;`\\ ")]
