"""A cluster of real nodes on one machine that scales from zero GPU nodes and back, under load, with a node killed and
its generators updated where no node can be added.

    python -m tests.cluster --json cluster.json

The nodes are those of local-cluster.yaml, the deployments those of production.yaml with shorter delays before anything
goes, the models those that ship with the package. Around it a Valkey and an S3 of its own. Takes eight minutes of two
processors that do nothing else.
"""

import argparse
import contextlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.console import Console
from rich.table import Table

from serve_app.backends.redis import BrokerSettings
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.launcher import CONFIG as EMBEDDED
from serve_app.launcher import free_port
from serve_app.photos.sample import sample_photo
from serve_app.tasks.keys import TaskKeys
from tests.support.photos import data_url
from tests.support.production import (
    CONFIG,
    UNLIMITED_TOKEN,
    LocalCluster,
    RayCluster,
    Valkey,
    is_ready,
    runs,
    s3_store,
    wait_until,
)

GPU_NODES = 2  # at most; production.yaml lets more generators be wanted than there can be
IDLE_S = 5  # until a stage that does nothing loses replicas, instead of minutes
DRAIN_S = 60
TASKS_AT_ONCE = 4
IMAGES = 8  # of each of them
SCALE_TIMEOUT_S = 300
CLIENT_TIMEOUT_S = 300
PARTS = ("process", "import", "load", "warm")
SMALL: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 12}


def local_config(http_port: int) -> dict[str, Any]:
    """production.yaml with the models of the package, for a machine without a GPU."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": http_port}
    application = config["applications"][0]
    embedded = yaml.safe_load(EMBEDDED.read_text())["applications"][0]["args"]
    application["args"] |= {key: embedded[key] for key in ("catalogs", "face", "generator", "background")}
    for model in application["args"]["generator"]["models"].values():
        model["threads"] = 1
    for deployment in application["deployments"]:
        deployment["autoscaling_config"] |= {"downscale_delay_s": IDLE_S}
        if deployment["name"] == "AvatarGenerator":
            deployment["graceful_shutdown_timeout_s"] = DRAIN_S  # Serve waits so long also for one that has no node yet
        if deployment["autoscaling_config"]["min_replicas"] == 0:
            deployment["autoscaling_config"]["downscale_to_zero_delay_s"] = 2 * IDLE_S
    return config


@dataclass(frozen=True)
class LocalService:
    """The service as a client and its operator see it, and the cluster that it runs on."""

    cluster: RayCluster
    client: httpx.Client
    broker: "redis.Redis"
    config: dict[str, Any]
    config_file: Path

    def deploy(self) -> None:
        self.config_file.write_text(yaml.safe_dump(self.config))
        self.cluster.run("serve", "deploy", "--address", self.cluster.dashboard_url, str(self.config_file))

    def update_generators(self, **scaling: Any) -> None:
        """Have all generators replaced by others, with these numbers of `autoscaling_config`."""
        deployments = self.config["applications"][0]["deployments"]
        (generator,) = (deployment for deployment in deployments if deployment["name"] == "AvatarGenerator")
        generator["autoscaling_config"] |= scaling
        generator["ray_actor_options"]["runtime_env"]["env_vars"]["UPDATE"] = uuid.uuid4().hex
        self.deploy()

    def post(self, **fields: Any) -> httpx.Response:
        """The answer to a request that is made once."""
        body = {"app_id": "face-avatar", "file_url": data_url(sample_photo().read_bytes()), **SMALL}
        return self.client.post("/getImageToImage", json=body | fields)

    def attempts(self, task_id: str) -> int:
        return int(self.broker.hget(TaskKeys(BrokerSettings().prefix).record(task_id), "attempts") or 0)

    def queue(self, **fields: Any) -> str:
        """The id of a task."""
        body = {"app_id": "face-avatar", "file_url": data_url(sample_photo().read_bytes()), "celery": True, **SMALL}
        once = {"Idempotency-Key": uuid.uuid4().hex}
        return str(self._answer(202, "POST", "/getImageToImage", json=body | fields, headers=once)["task_id"])

    def task(self, task_id: str) -> dict[str, Any]:
        return self._answer(200, "GET", f"/api/v1/tasks/{task_id}")

    def _answer(self, status: int, method: str, path: str, **content: Any) -> dict[str, Any]:
        """Asked again where there is none, as a client does: here all nodes' proxies share a port, and go with them."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answers.append(self.client.request(method, path, **content))
            return bool(answers) and answers[-1].status_code != 503

        wait_until(answered, f"an answer to {method} {path}")
        assert answers[-1].status_code == status, answers[-1].text
        envelope: dict[str, Any] = answers[-1].json()
        return envelope

    def images_done(self, task_id: str) -> int:
        """Raises: AssertionError where the task failed."""
        task = self.task(task_id)
        assert task["status"] in ("PENDING", "STARTED", "SUCCESS"), task
        output = task["output"]
        return len(output["result"]) if task["status"] == "SUCCESS" else int(output["progress"]["images_done"])

    def gpu_nodes(self) -> set[str]:
        return {node for node, has in self.cluster.nodes().items() if has.get("GPU")}

    def replicas(self, deployment: str) -> dict[str, str]:
        """The nodes of the replicas of a deployment that run, by the ids of the replicas."""
        listed = self.cluster.application()["deployments"][deployment]["replicas"]
        return {replica["replica_id"]: replica["node_id"] for replica in listed if replica["state"] == "RUNNING"}

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """What the processes exported last under a name."""
        lines = [line for line in self.cluster.exported().splitlines() if line.startswith(name)]  # of ten thousand
        families = text_string_to_metric_families("\n".join(lines) + "\n")
        found = [sample for family in families for sample in family.samples if sample.name == name]
        return [sample for sample in found if labels.items() <= sample.labels.items()]

    def rows(self, replica_id: str) -> float:
        """Images that wait in a generator or are being drawn there."""
        return sum(sample.value for sample in self.samples("ray_avatar_rows", replica=replica_id))

    def start_parts(self, deployment: str) -> dict[str, float]:
        """Seconds of the parts of a start of this deployment's replicas: the mean of those that run."""
        starts = sum(sample.value for sample in self.samples("ray_avatar_cold_starts_total", deployment=deployment))
        sums = dict.fromkeys(PARTS, 0.0)
        for sample in self.samples("ray_avatar_cold_start_seconds_total", deployment=deployment):
            sums[sample.labels["part"]] += sample.value
        return {part: seconds / starts for part, seconds in sums.items()} if starts else {}


@contextlib.contextmanager
def run_local_cluster(
    folder: Path, make: Callable[[dict[str, str], Valkey], RayCluster], config: dict[str, Any]
) -> Iterator[LocalService]:
    """The service by this config on a cluster; all of it is ended after the block.

    The cluster is made from the environment of its nodes and the broker. Clients are not sent to the head's proxy.
    """
    http_port, valkey = free_port(), Valkey(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.kill)
        valkey.start()
        environment = stack.enter_context(s3_store()) | {
            "FACE_AVATAR_BROKER__URL": valkey.url,
            "RAY_metrics_report_interval_ms": "1000",
            "RAY_prestart_worker_first_driver": "0",  # as many processes as a node has processors, which are not there
            "RAY_worker_niceness": "0",  # with Ray's 15 they would come after whatever else this machine does
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(http_port),
            PROXY_CALLBACK: MIDDLEWARES,
        }
        cluster = make(environment, valkey)
        stack.callback(cluster.stop)
        cluster.start()
        url, path = f"http://127.0.0.1:{http_port}", folder / "config.yaml"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=CLIENT_TIMEOUT_S))
        broker = stack.enter_context(redis.Redis.from_url(valkey.url, decode_responses=True))
        service = LocalService(cluster, client, broker, config, path)
        service.deploy()
        token = cluster.run(*UNLIMITED_TOKEN, "cluster", "--config", str(path)).strip()
        client.headers["Authorization"] = f"Bearer {token}"
        wait_until(lambda: runs(cluster), "the application runs")
        wait_until(lambda: is_ready(url), "the service is ready")
        yield service


class Clock:
    """Seconds since it was made, at which things were seen for the first time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.seen_s: dict[str, float] = {}

    def now(self) -> float:
        return time.monotonic() - self._started

    def watch(
        self, questions: dict[str, Callable[[], Any]], timeout_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Until all of them were true. Raises: AssertionError."""

        def look() -> bool:
            meanwhile()
            for name, question in questions.items():
                if name not in self.seen_s and question():
                    self.seen_s[name] = self.now()
            return self.seen_s.keys() >= questions.keys()

        try:
            wait_until(look, ", ".join(questions), timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {self.seen_s}") from None


@dataclass(slots=True)
class Run:
    """What was seen, in seconds after the first call of each part."""

    first_image_s: dict[str, float] = field(default_factory=dict)
    start_parts_s: dict[str, dict[str, float]] = field(default_factory=dict)
    stages_s: dict[str, float] = field(default_factory=dict)
    spread_s: dict[str, float] = field(default_factory=dict)
    killed_s: dict[str, float] = field(default_factory=dict)
    updated_s: dict[str, float] = field(default_factory=dict)
    idle_s: dict[str, float] = field(default_factory=dict)
    tasks: int = 0  # of the load; every one was done


def first_image(service: LocalService, run: Run) -> None:
    """From no GPU node to an avatar."""
    assert not service.gpu_nodes()
    clock = Clock()
    task_id = service.queue()
    questions: dict[str, Callable[[], Any]] = {
        "GPU node": service.gpu_nodes,
        "embedder": lambda: service.replicas("FaceEmbedder"),
        "generator": lambda: service.replicas("AvatarGenerator"),
        "image": lambda: service.images_done(task_id),
    }
    clock.watch(questions, SCALE_TIMEOUT_S)
    run.first_image_s = clock.seen_s
    run.stages_s = service.task(task_id)["time_required"]["stages"]
    for name in ("FaceEmbedder", "AvatarGenerator"):
        wait_until(lambda name=name: service.start_parts(name), "the parts of the start are exported")
        run.start_parts_s[name] = service.start_parts(name)


class Load:
    """As many images to draw at any time."""

    def __init__(self, service: LocalService) -> None:
        self._service = service
        self._clock = Clock()
        self._done: dict[str, int] = {}
        """Images of each task that are done."""

    @property
    def tasks(self) -> int:
        return len(self._done)

    @property
    def images_left(self) -> int:
        return IMAGES * self.tasks - sum(self._done.values())

    @property
    def image_s(self) -> float:
        """Seconds for each image until now."""
        return self._clock.now() / max(1, sum(self._done.values()))

    def keep(self) -> None:
        while len(self._unfinished()) < TASKS_AT_ONCE:
            self._done[self._service.queue(batch=IMAGES)] = 0

    def is_over(self) -> bool:
        return not self._unfinished()

    def _unfinished(self) -> list[str]:
        unfinished = [task_id for task_id, done in self._done.items() if done < IMAGES]
        self._done |= {task_id: self._service.images_done(task_id) for task_id in unfinished}
        return [task_id for task_id in unfinished if self._done[task_id] < IMAGES]


def load_and_kill(service: LocalService, run: Run) -> None:
    """More images than one generator takes bring a second node; it is killed at work, and every task is done."""
    clock, load, first = Clock(), Load(service), service.gpu_nodes()

    def new_ones(old: set[str]) -> list[str]:
        """Generators on nodes that were not there."""
        return [replica for replica, node in service.replicas("AvatarGenerator").items() if node not in old]

    questions: dict[str, Callable[[], Any]] = {
        "second GPU node": lambda: service.gpu_nodes() - first,
        "second generator": lambda: new_ones(first),
        "it draws": lambda: any(service.rows(replica) for replica in new_ones(first)),
    }
    clock.watch(questions, SCALE_TIMEOUT_S, load.keep)
    run.spread_s = clock.seen_s

    before, victim = service.gpu_nodes(), service.replicas("AvatarGenerator")[new_ones(first)[0]]
    clock = Clock()
    service.cluster.kill_node(victim)
    questions = {
        "its end is noticed": lambda: victim not in service.gpu_nodes(),
        "another GPU node": lambda: service.gpu_nodes() - before,
        "another generator": lambda: new_ones(before),
    }
    clock.watch(questions, SCALE_TIMEOUT_S, load.keep)
    clock.watch({"all tasks done": load.is_over}, timeout_s=2 * load.images_left * load.image_s)
    run.killed_s = clock.seen_s
    run.tasks = load.tasks


def replace_generators(service: LocalService, meanwhile: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Update all generators that run; after how many seconds what was seen. There is one that draws at any time.

    As serve_app/README.md says of a full cluster, no more of them are wanted from then on than run now.
    Raises: AssertionError.
    """
    old, clock = set(service.replicas("AvatarGenerator")), Clock()
    service.update_generators(max_replicas=len(old))
    running: set[str] = set()

    def look() -> None:
        nonlocal running
        meanwhile()
        running = set(service.replicas("AvatarGenerator"))
        assert running

    questions: dict[str, Callable[[], Any]] = {
        "an old one drains": lambda: old - running,
        "the first new one": lambda: running - old,
        "all are new": lambda: len(running - old) == len(old),
    }
    clock.watch(questions, SCALE_TIMEOUT_S, look)
    return clock.seen_s


def update(service: LocalService, run: Run) -> None:
    """Generators on all GPU nodes that there can be are replaced under load, and every task is done."""
    load = Load(service)
    full = {"a generator on each node": lambda: len(service.replicas("AvatarGenerator")) == GPU_NODES}
    Clock().watch(full, SCALE_TIMEOUT_S, load.keep)
    run.updated_s = replace_generators(service, load.keep)
    Clock().watch({"all tasks done": load.is_over}, timeout_s=2 * load.images_left * load.image_s)
    run.tasks += load.tasks


def idle(service: LocalService, run: Run) -> None:
    """Nobody asks any more: replicas go, then nodes."""
    clock = Clock()
    questions: dict[str, Callable[[], Any]] = {
        "no generator": lambda: not service.replicas("AvatarGenerator"),
        "no embedder": lambda: not service.replicas("FaceEmbedder"),
        "no GPU node": lambda: not service.gpu_nodes(),
    }
    clock.watch(questions, SCALE_TIMEOUT_S)
    run.idle_s = clock.seen_s


def measure(report: Callable[[Run], None] = lambda _: None) -> Run:
    run = Run()
    config = local_config(free_port())
    with (
        tempfile.TemporaryDirectory(prefix="face-avatar-") as folder,
        run_local_cluster(Path(folder), lambda environment, _: LocalCluster(environment, GPU_NODES), config) as service,
    ):
        for part in (first_image, load_and_kill, update, idle):
            part(service, run)
            report(run)
    return run


def show(run: Run) -> Table:
    table = Table("", "seen", "after, s", title="A local cluster")
    rows = {
        "from no GPU node": run.first_image_s,
        **{f"start of {name}": parts for name, parts in run.start_parts_s.items()},
        "stages of the image": run.stages_s,
        f"{TASKS_AT_ONCE} tasks of {IMAGES} images at any time": run.spread_s,
        "a GPU node killed": run.killed_s,
        "generators updated, and no node to add": run.updated_s,
        "nobody asks": run.idle_s,
    }
    for title, seen in rows.items():
        for name, seconds in seen.items():
            table.add_row(title, name, f"{seconds:.2f}")
            title = ""
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    run = measure(lambda run: Console().print(show(run)))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(run), indent=1))


if __name__ == "__main__":
    main()
