"""What is told to Prometheus. The slow ones run a service, and the dashboard's queries on what it exports."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from starlette.types import Message, Receive, Scope, Send

from deployments.common.startup_metrics import ColdStart
from deployments.errors import NoFaceError
from serve_app.api.metrics import LEFT, OK, OTHER_ROUTE, RequestMetrics
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.errors import ImageUrlError
from serve_app.generation.execution import failure_outcome
from serve_app.launcher import CONFIG, free_port
from serve_app.tasks.metrics import TaskMetrics, durations, refusal, waited_s
from serve_app.tasks.models import Delivery, Failure, Outcome, TaskRecord
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import TaskQueue
from serve_app.worker.queue_metrics import QueueMetrics, QueueState
from serve_app.worker.webhooks import delivery_outcome
from tests.support.service import Service
from tests.support.tasks import AVATAR, task

ROOT = Path(__file__).parents[2]
DASHBOARD = CONFIG.with_name("grafana.json")
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
NEEDS_PROMETHEUS = pytest.mark.skipif(PROMETHEUS is None or PROMTOOL is None, reason="no prometheus is installed")
DEFINED = re.compile(r'metrics\.(Counter|Gauge|Histogram)\(\s*"(avatar_\w+)"')
SAMPLE = re.compile(r"^(ray_(?:avatar|serve|node)_\w+)\{(.*)\} ", re.MULTILINE)
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
QUERIED = re.compile(r"ray_[a-z_]+")
LABELS = re.compile(r"(?:by|on) \(([^)]*)\)|\{([^}]*)\}")
LABEL = re.compile(r"[a-z_]+(?=\s*(?:[=!]|,|$))")


class Noted(list[tuple[float, dict[str, str]]]):
    """Stands for a metric of Ray's, which cannot be read back."""

    def inc(self, value: float, labels: dict[str, str]) -> None:
        self.append((value, labels))

    observe = inc


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def labels_of(query: str) -> set[str]:
    named = ",".join(filter(None, (part for found in LABELS.findall(query) for part in found)))
    return set(LABEL.findall(QUOTED.sub("", named))) - {"le"}


def answered(app: Callable[[Scope, Receive, Send], Any], scope: Scope) -> dict[str, str]:
    """The labels under which one request is counted."""
    counted = RequestMetrics(app)
    counted._requests = requests = Noted()
    counted._seconds = seconds = Noted()

    async def nothing(*_: Message) -> Message:
        return {}

    with contextlib.suppress(asyncio.CancelledError, ZeroDivisionError):
        asyncio.run(counted({"type": "http", **scope}, nothing, nothing))  # type: ignore[arg-type]
    (_, labels), (_, timed) = requests[0], seconds[0]
    assert len(requests) == len(seconds) == 1
    assert timed == {"route": labels["route"]}
    return labels


def answering(status: int, outcome: str | None = None) -> Callable[[Scope, Receive, Send], Any]:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"] = {} if outcome is None else {"outcome": outcome}
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def failing(error: BaseException) -> Callable[[Scope, Receive, Send], Any]:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return app


class Route:
    path = "/api/v1/tasks/{task_id}"


def test_a_request_is_counted_by_the_pattern_of_its_route_never_by_its_path() -> None:
    scope = {"path": "/api/v1/tasks/123", "route": Route()}
    assert answered(answering(200), scope) == {"route": "/api/v1/tasks/{task_id}", "outcome": OK}
    assert answered(answering(404, "Not Found"), {"path": "/secret/123"})["route"] == OTHER_ROUTE


def test_a_request_is_counted_by_the_name_of_its_error() -> None:
    assert answered(answering(422, "Image URL Error"), {})["outcome"] == "Image URL Error"
    assert answered(answering(404), {})["outcome"] == "404"


def test_a_bug_and_a_client_that_left_are_counted_too() -> None:
    assert answered(failing(ZeroDivisionError()), {})["outcome"] == "Internal Error"
    assert answered(failing(asyncio.CancelledError()), {})["outcome"] == LEFT


def test_a_task_that_went_well_tells_its_stages_and_its_likeness_image_by_image() -> None:
    avatars = (replace(AVATAR, face_similarity=0.75, diffusion_s=2.0), replace(AVATAR, diffusion_s=3.0))
    outcome = Outcome(avatars=avatars, stages={"fetch": 0.5, "face": 0.25, "diffusion": 3.0})
    told = TaskMetrics()
    told._tasks = tasks = Noted()
    told._images = images = Noted()
    told._similarity = similarity = Noted()
    told.ended(task("id"), "SUCCESS", outcome)
    assert [stage for stage, _ in durations(outcome)] == [
        "fetch", "face", "diffusion", "finish", "store", "diffusion", "finish", "store",
    ]  # fmt: skip
    assert [seconds for stage, seconds in durations(outcome) if stage == "diffusion"] == [2.0, 3.0]
    withheld = outcome.model_copy(update={"avatars": (*avatars, replace(AVATAR, withheld=True))})
    assert list(durations(withheld)) == list(durations(outcome))
    assert tasks == [(1, {"kind": "synchronous", "status": "SUCCESS", "error": ""})]
    assert [labels["face"] for _, labels in images] == ["shown", "none"]
    assert [value for value, _ in similarity] == [0.75]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageUrlError("no", reason="too_large"), "too_large"),
        (NoFaceError("no face found", faces_found=0), "no_face"),
        (NoFaceError("face too small", faces_found=2), "face_too_small"),
        (ZeroDivisionError(), None),
    ],
)
def test_a_photo_is_refused_for_a_reason_that_has_a_code(error: Exception, reason: str | None) -> None:
    failure = failure_outcome(error).failure
    assert isinstance(failure, Failure)
    assert refusal(failure) == reason


def test_the_time_in_the_queue_counts_for_the_first_worker_only() -> None:
    sent = task("id").model_copy(update={"submitted_at": 100.0})
    first = TaskRecord(task=sent, status="STARTED", attempts=1, started_at=103.0)
    assert waited_s(first) == 3
    assert waited_s(first.model_copy(update={"attempts": 2})) is None
    assert waited_s(first.model_copy(update={"started_at": 99.0})) == 0


def test_a_webhook_is_delivered_or_failed_or_given_up() -> None:
    deliveries = [Delivery(delivered_at=1.0), Delivery(status=500), Delivery(status=410, given_up=True)]
    assert [delivery_outcome(delivery) for delivery in deliveries] == ["delivered", "failed", "given up"]


def test_the_queue_is_seen_as_it_is(valkey: Path) -> None:
    async def scenario() -> list[QueueState]:
        async with connect(BrokerSettings(prefix="watched"), valkey) as redis:
            tasks, queue = TaskStore(redis, "holder", 60), TaskQueue(redis, "worker")
            watch = QueueMetrics(redis)
            states = [await watch.state()]
            for task_id in ("one", "two"):
                await tasks.create(task(task_id), "PENDING")
                await tasks.enqueue(task_id)
            while not (await queue.take(1, wait_s=0.01)):
                states = [await watch.state()]  # the first call makes the group
            states.append(await watch.state())
            await tasks.claim("one")
            await tasks.finish(task("one"), "FAILED", Outcome(), dead=True)
            return [*states, await watch.state()]

    before, taken, over = asyncio.run(scenario())
    assert before == QueueState(waiting=2, running=0, dead=0, webhooks_due=0, eta_s=None)
    assert (taken.waiting, taken.running) == (1, 1)
    assert over.dead == 1


def test_no_task_waits_while_a_worker_still_has_one_that_was_cancelled(valkey: Path) -> None:
    async def scenario() -> QueueState:
        async with connect(BrokerSettings(prefix="cancelled"), valkey) as redis:
            tasks, queue = TaskStore(redis, "holder", 60), TaskQueue(redis, "worker")
            await queue.take(1, wait_s=0.01)
            await tasks.create(task("one"), "PENDING")
            await tasks.enqueue("one")
            assert len(await queue.take(1, wait_s=1)) == 1
            await tasks.cancel("one")
            return await QueueMetrics(redis).state()

    state = asyncio.run(scenario())
    assert (state.waiting, state.running) == (0, 1)


def test_the_parts_of_a_cold_start_add_up_and_need_no_ray() -> None:
    start = ColdStart()
    for _ in range(2):
        with start.part("load"):
            sum(range(1000))
    once = start.seconds["load"]
    with pytest.raises(ZeroDivisionError), start.part("load"):
        raise ZeroDivisionError
    assert start.seconds.keys() == {"process", "load"}
    assert start.seconds["load"] > once > 0
    start.publish()


def test_a_part_of_a_cold_start_inside_of_another_counts_once() -> None:
    now_s = 0.0
    start = ColdStart(clock=lambda: now_s)
    with start.part("load"):
        now_s += 2
        with start.part("weights"):
            now_s += 10
        with start.part("lora"):
            now_s += 20
        now_s += 3
    parts_s = {name: seconds for name, seconds in start.seconds.items() if name != "process"}
    assert parts_s == pytest.approx({"weights": 10, "lora": 20, "load": 5})


def test_the_dashboard_shows_every_metric_of_this_project_and_no_other() -> None:
    sources = [path.read_text() for folder in ("serve_app", "deployments") for path in (ROOT / folder).rglob("*.py")]
    defined = {name: kind for source in sources for kind, name in DEFINED.findall(source)}
    queried = {name for query in queries() for name in QUERIED.findall(query) if name.startswith("ray_avatar_")}
    histograms = {f"ray_{name}_bucket" for name, kind in defined.items() if kind == "Histogram"}
    assert queried == histograms | {f"ray_{name}" for name, kind in defined.items() if kind != "Histogram"}
    assert all(name.endswith("_total") == (kind == "Counter") for name, kind in defined.items())


def test_the_dashboard_asks_the_data_source_that_its_reader_chose_and_its_panels_do_not_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "application"]
    assert all(panel["datasource"] == chosen for panel in panels())
    assert all(target["datasource"] == chosen for panel in panels() for target in panel["targets"])
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


@NEEDS_PROMETHEUS
def test_prometheus_takes_the_config_beside_the_dashboard() -> None:
    config = CONFIG.with_name("prometheus.yaml")
    subprocess.run([str(PROMTOOL), "check", "config", str(config)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def exporter(service: Service) -> str:
    """Where the node of the service exports its metrics: host and port."""
    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


@pytest.fixture(scope="module")
def prometheus(exporter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that reads the exporter every second; ended after the tests."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    scrape = {"job_name": "ray", "static_configs": [{"targets": [exporter]}]}
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.terminate()
        server.wait(30)


def send_traffic(service: Service, poll: Callable[..., Any]) -> None:
    """A little of everything that is counted."""
    small = {"num_inference_steps": 2, "width": 256, "height": 256}
    service.make(**small, batch=2, seed=1)
    assert service.post(file_url=f"{service.photos}/cat.png").status_code == 422
    assert service.post(file_url=f"{service.photos}/absent.png").status_code == 422
    queued = service.post(**small, celery=True, webhook_url=f"{service.photos}/hook")
    assert queued.status_code == 202
    status = f"/api/v1/tasks/{queued.json()['task_id']}"
    poll(lambda: service.client.get(status).json()["status"] == "SUCCESS", timeout_s=300)
    assert service.client.get("/api/v1/tasks/absent").status_code == 404


@contextlib.contextmanager
def watched(exporter: str) -> Iterator[dict[str, set[str]]]:
    """The labels of every metric that is exported at some moment of the block: gauges come and go."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            for name, named in SAMPLE.findall(httpx.get(f"http://{exporter}/metrics", timeout=30).text):
                labels[name].update(LABEL.findall(QUOTED.sub("", named)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield labels
    finally:
        over.set()
        watching.join()


def until(question: Callable[[], bool], timeout_s: float = 60) -> None:
    """Ask once a second, as often as there is something new, until the answer is true or the time is over."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not question() and time.monotonic() < deadline:
        pause.wait(1)


@pytest.mark.slow
def test_ray_exports_every_metric_and_label_that_the_dashboard_asks_for(
    service: Service, exporter: str, poll: Callable[..., Any]
) -> None:
    # A query that says zero itself counts what may never happen: its metric comes with the first time.
    counted = [query for query in queries() if not query.endswith(" or vector(0)")]
    wanted = {name for query in counted for name in QUERIED.findall(query)}
    with watched(exporter) as labels:
        send_traffic(service, poll)
        until(lambda: not wanted - labels.keys())
    assert wanted - labels.keys() == set()
    for query in counted:
        has = set().union(*(labels[name] for name in QUERIED.findall(query)))
        assert labels_of(query) <= has, query


@dataclass(frozen=True)
class History:
    """What Prometheus has of a service since it was first asked something."""

    prometheus: httpx.Client
    began: float  # unix seconds

    def series(self, query: str) -> list[dict[str, Any]]:
        """Those with a number at some moment."""
        expression = query.replace("$__rate_interval", "5m").replace("$application", "face-avatar")
        span = {"start": self.began, "end": time.time(), "step": 1}
        answer = self.prometheus.get("/api/v1/query_range", params={"query": expression, **span}).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return [series for series in found if any(value != "NaN" for _, value in series["values"])]

    def labels(self, metric: str, *names: str) -> set[tuple[str, ...]]:
        """What the labels of a metric were; Prometheus drops those that are empty."""
        return {tuple(series["metric"].get(name, "") for name in names) for series in self.series(metric)}


@pytest.fixture(scope="module")
def history(service: Service, prometheus: httpx.Client, poll: Callable[..., Any]) -> History:
    """That of two rounds of traffic, since a rate needs a change between two samples."""
    history = History(prometheus, time.time())
    until(lambda: is_up(prometheus))
    for _ in range(2):
        send_traffic(service, poll)
        until(lambda: bool(history.series("ray_avatar_webhook_calls_total")))
    return history


def is_up(prometheus: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        found = prometheus.get("/api/v1/query", params={"query": "up == 1"}).json()
        return bool(found["data"]["result"])
    return False


@pytest.mark.slow
@NEEDS_PROMETHEUS
def test_every_query_of_the_dashboard_returns_data(history: History) -> None:
    silent = queries()

    def all_answered() -> bool:
        silent[:] = [query for query in silent if not history.series(query)]
        return not silent

    until(all_answered)
    assert silent == []


@pytest.mark.slow
@NEEDS_PROMETHEUS
def test_what_happened_is_counted_under_its_name(history: History) -> None:
    create = "/getImageToImage"
    assert history.labels("ray_avatar_requests_total", "route", "outcome") >= {
        (create, "OK"),
        (create, "Image URL Error"),
        (create, "Face Consistent Error"),
        ("/api/v1/tasks/{task_id}", "OK"),
        ("/api/v1/tasks/{task_id}", "Unknown Task"),
    }
    assert history.labels("ray_avatar_tasks_total", "kind", "status", "error") == {
        ("synchronous", "SUCCESS", ""),
        ("synchronous", "FAILED", "Image URL Error"),
        ("synchronous", "FAILED", "Face Consistent Error"),
        ("queued", "SUCCESS", ""),
    }
    assert history.labels("ray_avatar_photos_refused_total", "reason") == {("status",), ("no_face",)}
    assert history.labels("ray_avatar_webhook_calls_total", "outcome") == {("failed",)}
    stages = {(stage,) for stage in ("fetch", "face", "diffusion", "finish", "store")}
    assert history.labels("ray_avatar_stage_seconds_count", "stage") == stages


@pytest.mark.slow
@NEEDS_PROMETHEUS
def test_every_stage_with_a_model_tells_the_parts_of_its_start(history: History) -> None:
    parts = ("process", "import", "load", "warm")
    deployments = ("AvatarGenerator", "BackgroundRemover", "FaceEmbedder")
    seconds = history.labels("ray_avatar_cold_start_seconds_total", "deployment", "part")
    of_the_generator = {("AvatarGenerator", part) for part in ("weights", "adapter", "lora", "compile")}
    assert seconds == {(deployment, part) for deployment in deployments for part in parts} | of_the_generator
