"""A cluster of real nodes on one machine that scales from zero GPU nodes and back, under load and with a node killed.

    python -m tests.cluster --json cluster.json

The nodes are those of local-cluster.yaml, the deployments those of production.yaml with shorter delays before anything
goes, the models those that ship with the package. Around it a Valkey and an S3 of its own. Takes about four minutes.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from serve_app.demo import sample_photo
from serve_app.edge import MIDDLEWARES, PROXY_CALLBACK
from serve_app.local import CONFIG as EMBEDDED
from serve_app.local import free_port
from tests.conftest import data_url
from tests.production import CONFIG, UNLIMITED_TOKEN, LocalCluster, Valkey, is_ready, runs, s3_store, wait_until

GENERATORS = 2
IDLE_S = 5  # until a stage that does nothing loses replicas, instead of minutes
TASKS_AT_ONCE = 4  # of eight images each
SCALE_TIMEOUT_S = 120
DONE_TIMEOUT_S = 180
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
        if deployment["autoscaling_config"]["min_replicas"] == 0:
            deployment["autoscaling_config"]["downscale_to_zero_delay_s"] = 2 * IDLE_S
        if deployment["name"] == "AvatarGenerator":
            deployment["autoscaling_config"]["max_replicas"] = GENERATORS
    return config


@dataclass(frozen=True)
class LocalService:
    """The service as a client sees it, and the cluster that it runs on."""

    cluster: LocalCluster
    client: httpx.Client

    def queue(self, **fields: Any) -> str:
        """The id of a task."""
        body = {"app_id": "face-avatar", "file_url": data_url(sample_photo().read_bytes()), "celery": True, **SMALL}
        answer = self.client.post("/getImageToImage", json=body | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def task(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = self.client.get(f"/api/v1/tasks/{task_id}").json()
        return task

    def done(self, task_id: str) -> bool:
        """Raises: AssertionError where it failed."""
        task = self.task(task_id)
        assert task["status"] in ("PENDING", "STARTED", "SUCCESS"), task
        return bool(task["status"] == "SUCCESS")

    def gpu_nodes(self) -> set[str]:
        return {node for node, has in self.cluster.nodes().items() if has.get("GPU")}

    def replicas(self, deployment: str, state: str = "RUNNING") -> list[str]:
        """The nodes of the replicas of a deployment that are in this state."""
        listed = self.cluster.application()["deployments"][deployment]["replicas"]
        return [replica["node_id"] or "" for replica in listed if replica["state"] == state]

    def start_parts(self, deployment: str) -> dict[str, float]:
        """Seconds of the parts of a start of this deployment's replicas: the mean of those that run."""
        sums, starts = dict.fromkeys(PARTS, 0.0), 0.0
        for family in text_string_to_metric_families(self.cluster.exported()):
            for sample in family.samples:
                if sample.labels.get("deployment") != deployment:
                    continue
                starts += sample.value if sample.name == "ray_avatar_cold_starts_total" else 0
                if sample.name == "ray_avatar_cold_start_seconds_total":
                    sums[sample.labels["part"]] += sample.value
        return {part: seconds / starts for part, seconds in sums.items()} if starts else {}


@contextlib.contextmanager
def run_local_cluster(folder: Path) -> Iterator[LocalService]:
    """A service without any GPU node; all of it is ended after the block."""
    http_port, valkey = free_port(), Valkey(folder)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(local_config(http_port)))
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.kill)
        valkey.start()
        environment = stack.enter_context(s3_store()) | {
            "FACE_AVATAR_BROKER__URL": valkey.url,
            "RAY_metrics_report_interval_ms": "1000",
            PROXY_CALLBACK: MIDDLEWARES,
        }
        cluster = LocalCluster(environment)
        stack.callback(cluster.stop)
        cluster.start()
        cluster.run("serve", "deploy", "--address", cluster.dashboard_url, str(config))
        token = cluster.run(*UNLIMITED_TOKEN, "cluster", "--config", str(config)).strip()
        wait_until(lambda: runs(cluster), "the application runs")
        url = f"http://127.0.0.1:{http_port}"
        wait_until(lambda: is_ready(url), "the service is ready")
        headers = {"Authorization": f"Bearer {token}"}
        yield LocalService(cluster, stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=60)))


class Clock:
    """Seconds since it was made, at which things were seen for the first time."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.seen_s: dict[str, float] = {}

    def now(self) -> float:
        return time.monotonic() - self._started

    def watch(self, questions: dict[str, Callable[[], Any]], timeout_s: float) -> None:
        """Until all of them were true. Raises: AssertionError."""

        def look() -> bool:
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
    idle_s: dict[str, float] = field(default_factory=dict)
    tasks: int = 0  # that the load consisted of; every one was done


def first_image(service: LocalService, run: Run) -> None:
    """From no GPU node to an avatar."""
    assert not service.gpu_nodes()
    clock = Clock()
    task_id = service.queue()
    questions: dict[str, Callable[[], Any]] = {
        "GPU node": service.gpu_nodes,
        "embedder": lambda: service.replicas("FaceEmbedder"),
        "generator": lambda: service.replicas("AvatarGenerator"),
        "image": lambda: service.done(task_id),
    }
    clock.watch(questions, SCALE_TIMEOUT_S)
    run.first_image_s = clock.seen_s
    run.stages_s = service.task(task_id)["time_required"]["stages"]
    for name in ("FaceEmbedder", "AvatarGenerator"):
        wait_until(lambda name=name: service.start_parts(name), "the parts of the start are exported")
        run.start_parts_s[name] = service.start_parts(name)


def load_and_kill(service: LocalService, run: Run) -> None:
    """More images than one generator takes bring a second node; it is killed at work, and every task is done."""
    clock, tasks, unfinished = Clock(), list[str](), set[str]()

    def kept_busy() -> bool:
        """Whether a second generator runs; until then there is always as much to do."""
        unfinished.difference_update([task_id for task_id in unfinished if service.done(task_id)])
        while len(unfinished) < TASKS_AT_ONCE:
            tasks.append(service.queue(batch=8))
            unfinished.add(tasks[-1])
        return len(set(service.replicas("AvatarGenerator"))) >= GENERATORS

    clock.watch(
        {"second generator": kept_busy, "second GPU node": lambda: len(service.gpu_nodes()) >= GENERATORS},
        SCALE_TIMEOUT_S,
    )
    run.spread_s = clock.seen_s

    victim, clock = service.replicas("AvatarGenerator")[-1], Clock()
    service.cluster.kill_node(victim)
    questions: dict[str, Callable[[], Any]] = {
        "node gone": lambda: victim not in service.gpu_nodes(),
        "all tasks done": lambda: all(service.done(task_id) for task_id in tasks),
    }
    clock.watch(questions, DONE_TIMEOUT_S)
    run.killed_s = clock.seen_s
    run.tasks = len(tasks)


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
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as folder, run_local_cluster(Path(folder)) as service:
        for part in (first_image, load_and_kill, idle):
            part(service, run)
            report(run)
    return run


def show(run: Run) -> Table:
    table = Table("", "seen", "after, s", title="A local cluster")
    rows = {
        "from no GPU node": run.first_image_s,
        **{f"start of {name}": parts for name, parts in run.start_parts_s.items()},
        "stages of the image": run.stages_s,
        "32 images at any time": run.spread_s,
        "a GPU node killed": run.killed_s,
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
