"""Replicas that come and go while work is under way: what leaves finishes, and what stands at zero is woken."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from ray import serve

from serve_app.backends.embedded_valkey import LAST_CLIENTS_S
from serve_app.backends.redis import BrokerSettings, own_url
from serve_app.errors import MAX_RETRY_AFTER_S
from serve_app.launcher import CONFIG, DRAIN_TIMEOUT_S, ServiceOptions, _deploy, free_port, read_config, run_service
from serve_app.photos.sample import sample_photo
from serve_app.pipeline.cold_start import POLL_EVERY_S, StageState, fetch_stage_states
from serve_app.settings import Settings
from serve_app.tasks.keys import TaskKeys
from serve_app.worker.deployment import CLOSE_S
from tests.support.brokers import valkey_server
from tests.support.photos import data_url, photo_files
from tests.support.service_process import running_service, submit
from tests.support.steady_load import SteadyLoad

PRODUCTION = CONFIG.with_name("production.yaml")
REMOVAL_S = {CONFIG: 0.3, PRODUCTION: 6}  # of one background, on a slow processor (loadtest.bench.background)
WAIT_LOOP_S = 2  # Serve's own, before it looks whether a replica is idle
APP = "face-avatar"
SMALL: dict[str, Any] = {"app_id": APP, "width": 256, "height": 256, "num_inference_steps": 2, "deadline_s": 600}
UPDATE_TIMEOUT_S = 240
COLD_START_S = 77
KEYS = TaskKeys(BrokerSettings().prefix)
SCALED = ("AvatarWorker", "AvatarGenerator", "BackgroundRemover")


@dataclass(frozen=True)
class Numbers:
    """A config file as its settings and its deployments."""

    settings: Settings
    deployments: dict[str, dict[str, Any]]
    removal_s: float

    @classmethod
    def of(cls, path: Path) -> "Numbers":
        application = yaml.safe_load(path.read_text())["applications"][0]
        deployments = {each["name"]: each for each in application["deployments"]}
        return cls(Settings(**application["args"]), deployments, REMOVAL_S[path])

    def scaling(self, name: str) -> dict[str, Any]:
        scaling: dict[str, Any] = self.deployments[name]["autoscaling_config"]
        return scaling


@pytest.fixture(params=[CONFIG, PRODUCTION], ids=lambda path: path.stem)
def numbers(request: pytest.FixtureRequest) -> Numbers:
    return Numbers.of(request.param)


def test_a_replica_has_the_time_to_finish_what_it_works_on(numbers: Numbers) -> None:
    timeout_s = {name: each["graceful_shutdown_timeout_s"] for name, each in numbers.deployments.items()}
    assert timeout_s["AvatarWorker"] > WAIT_LOOP_S + numbers.settings.worker.grace_s + CLOSE_S
    for name in ("AvatarIngress", "AvatarGenerator"):
        assert timeout_s[name] > WAIT_LOOP_S + numbers.settings.deadline_s
    assert timeout_s["FaceEmbedder"] > 4 * WAIT_LOOP_S
    remover = numbers.deployments["BackgroundRemover"]
    one_by_one_s = remover["max_ongoing_requests"] * numbers.removal_s
    assert timeout_s["BackgroundRemover"] > WAIT_LOOP_S + one_by_one_s
    if "EmbeddedValkey" in timeout_s:
        assert timeout_s["EmbeddedValkey"] > WAIT_LOOP_S + LAST_CLIENTS_S


def test_workers_hand_back_what_they_have_before_the_broker_goes_and_all_before_ctrl_c_ends_it() -> None:
    grace_s = Numbers.of(CONFIG).settings.worker.grace_s
    assert WAIT_LOOP_S + grace_s < DRAIN_TIMEOUT_S
    assert grace_s < LAST_CLIENTS_S


def test_a_replica_is_asked_for_no_more_than_it_takes(numbers: Numbers) -> None:
    settings, tasks, rows = numbers.settings, numbers.scaling("AvatarWorker"), numbers.scaling("AvatarGenerator")
    assert tasks["target_ongoing_requests"] == settings.worker.concurrency
    assert rows["target_ongoing_requests"] == settings.generator.max_rows
    for deployment in numbers.deployments.values():
        if "autoscaling_config" in deployment and "max_ongoing_requests" in deployment:
            assert deployment["autoscaling_config"]["target_ongoing_requests"] < deployment["max_ongoing_requests"]


def test_all_workers_of_a_cluster_together_keep_all_its_generators_busy() -> None:
    numbers = Numbers.of(PRODUCTION)
    tasks, rows = numbers.scaling("AvatarWorker"), numbers.scaling("AvatarGenerator")
    places = tasks["max_replicas"] * tasks["target_ongoing_requests"]
    assert places >= rows["max_replicas"] * rows["target_ongoing_requests"]


def test_the_worker_is_never_at_zero_and_what_may_be_stays_for_those_told_to_come_back(numbers: Numbers) -> None:
    assert numbers.scaling("AvatarWorker")["min_replicas"] >= 1
    assert numbers.settings.admission.cold_start_s <= MAX_RETRY_AFTER_S
    for name, deployment in numbers.deployments.items():
        if deployment.get("autoscaling_config", {}).get("min_replicas") == 0:
            assert name in ("FaceEmbedder", "AvatarGenerator")
            assert numbers.scaling(name)["downscale_to_zero_delay_s"] > MAX_RETRY_AFTER_S


@dataclass
class Service:
    """A service whose configuration changes while it runs. Of each stage two replicas fit this machine."""

    folder: Path
    data_dir: Path = field(init=False)
    client: httpx.Client = field(init=False)
    broker: "redis.Redis" = field(init=False)

    def config(self, scaling: dict[str, dict[str, Any]], **args: Any) -> Path:
        config = yaml.safe_load(CONFIG.read_text())
        application = config["applications"][0]
        application["args"] |= {"admission": {"max_images": 32, "cold_start_s": COLD_START_S}, **args}
        for deployment in application["deployments"]:
            deployment["ray_actor_options"]["num_cpus"] = 0.05
            if deployment["name"] in scaling:
                deployment.pop("num_replicas", None)
                deployment.pop("autoscaling_config", None)
                deployment |= scaling[deployment["name"]]
        path = self.folder / "config.yaml"
        path.write_text(json.dumps(config))
        return path

    def update(self, scaling: dict[str, dict[str, Any]], **args: Any) -> None:
        """What `serve deploy` does; the application may still be as it was when this returns."""
        schema, _ = read_config(
            ServiceOptions(config=self.config(scaling, **args), port=self.client.base_url.port, data_dir=self.data_dir)
        )
        _deploy(schema)

    def post(self, **fields: Any) -> httpx.Response:
        body = {"file_url": data_url(sample_photo().read_bytes()), **SMALL, **fields}
        return self.client.post("/getImageToImage", json=body)

    def task(self, task_id: str) -> dict[str, Any]:
        task: dict[str, Any] = self.client.get(f"/api/v1/tasks/{task_id}").json()
        return task

    def attempts(self, task_id: str) -> int:
        return int(self.broker.hget(KEYS.record(task_id), "attempts") or 0)


def replicas(number: int) -> dict[str, dict[str, Any]]:
    return {name: {"num_replicas": number} for name in SCALED}


def running(number: int) -> bool:
    """Whether so many replicas of each scaled stage run, and nothing else changes."""
    states = fetch_stage_states(APP)
    application = serve.status().applications[APP]
    return application.status.value == "RUNNING" and all(
        state.status == "HEALTHY" and (name not in SCALED or state.serving == number) for name, state in states.items()
    )


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("changing"))
    config = service.config(replicas(2))
    with run_service(ServiceOptions(config=config, port=free_port(), data_dir=service.folder / "data")) as started:
        service.data_dir = started.data_dir
        headers = {"Authorization": f"Bearer {started.token}"}
        with (
            httpx.Client(base_url=started.url, headers=headers, timeout=600) as service.client,
            redis.Redis.from_url(own_url(started.data_dir)) as service.broker,
        ):
            yield service


@pytest.mark.slow
def test_replicas_that_are_taken_away_under_load_cost_no_request_and_no_second_run(
    changing: Service, poll: Callable[..., Any]
) -> None:
    poll(lambda: running(2), UPDATE_TIMEOUT_S)
    with SteadyLoad(changing).running() as load:
        load.wait_for_more(6, poll)
        changing.update(replicas(1))
        poll(lambda: running(1), UPDATE_TIMEOUT_S)
        load.wait_for_more(6, poll)
    load.check(poll)


@pytest.mark.slow
def test_an_update_under_load_loses_nothing(changing: Service, poll: Callable[..., Any]) -> None:
    changing.update(replicas(2))
    poll(lambda: running(2), UPDATE_TIMEOUT_S)
    with SteadyLoad(changing).running() as load:
        load.wait_for_more(6, poll)
        changing.update(replicas(2), photo={"max_side": 1024})
        poll(lambda: not running(2), UPDATE_TIMEOUT_S)
        poll(lambda: running(2), UPDATE_TIMEOUT_S)
        load.wait_for_more(6, poll)
    # Other `args` restart the broker of this profile too. What cannot be handed back meanwhile is begun again.
    load.check(poll, broker_stays=False)


def scaled(policy: str, least: int, most: int, target: int) -> dict[str, Any]:
    """The numbers of a deployment that reacts within seconds."""
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": target,
            "metrics_interval_s": 0.5,
            "look_back_period_s": 2,
            "upscale_delay_s": 0,
            "downscale_delay_s": 2,
            "downscale_to_zero_delay_s": 6,
            "policy": {"policy_function": f"serve_app.policies:{policy}"},
        }
    }


@pytest.mark.slow
def test_more_work_than_a_replica_takes_brings_another_for_as_long_as_it_lasts(
    changing: Service, poll: Callable[..., Any]
) -> None:
    tasks, rows = scaled("TasksPolicy", 1, 2, 4), scaled("RowsPolicy", 1, 2, 4)
    changing.update(replicas(1) | {"AvatarWorker": tasks, "AvatarGenerator": rows})
    poll(lambda: running(1), UPDATE_TIMEOUT_S)
    long = {"batch": 2, "num_inference_steps": 50, "width": 512, "height": 512, "celery": True}
    accepted = [changing.post(**long).json()["task_id"] for _ in range(8)]
    poll(lambda: {serving("AvatarWorker"), serving("AvatarGenerator")} == {2}, UPDATE_TIMEOUT_S)
    for task_id in accepted:
        changing.client.delete(f"/api/v1/tasks/{task_id}")
    poll(lambda: running(1), UPDATE_TIMEOUT_S)


def serving(name: str) -> int:
    state = fetch_stage_states(APP).get(name)
    return state.serving if state else 0


def at_zero() -> bool:
    return fetch_stage_states(APP).get("AvatarGenerator") == StageState("HEALTHY", serving=0, starting=0)


def wait_for_zero(poll: Callable[..., Any]) -> None:
    """Until there has been no generator for so long that the ingress has noticed."""
    looks = 0

    def noticed() -> bool:
        nonlocal looks
        looks = looks + 1 if at_zero() else 0
        return looks > 20 * POLL_EVERY_S  # `poll` asks ten times a second

    poll(noticed, UPDATE_TIMEOUT_S)


@pytest.fixture
def cold(changing: Service, poll: Callable[..., Any]) -> Service:
    """The service without a generator."""
    changing.update(replicas(1) | {"AvatarGenerator": scaled("RowsPolicy", 0, 1, 8)})
    poll(lambda: serve.status().applications[APP].status.value == "RUNNING", UPDATE_TIMEOUT_S)
    wait_for_zero(poll)
    return changing


@pytest.mark.slow
def test_a_synchronous_request_at_zero_is_told_when_to_come_back_and_wakes_the_stage(
    cold: Service, poll: Callable[..., Any]
) -> None:
    refused = cold.post()
    assert (refused.status_code, refused.json()["error"]) == (503, "Overloaded")
    assert int(refused.headers["Retry-After"]) == COLD_START_S
    poll(lambda: cold.post().status_code == 200, UPDATE_TIMEOUT_S)
    measured_s = float(poll(lambda: cold.broker.hget(f"{BrokerSettings().prefix}:cold-starts", "AvatarGenerator")))
    assert 0 < measured_s < COLD_START_S

    wait_for_zero(poll)
    assert int(cold.post().headers["Retry-After"]) == pytest.approx(measured_s, abs=1.5)


@pytest.mark.slow
def test_a_photo_without_a_face_wakes_no_generator(cold: Service) -> None:
    photo = data_url(photo_files()["cat.png"])
    refused = cold.post(file_url=photo)
    assert (refused.status_code, refused.json()["error"]) == (422, "Face Consistent Error")
    assert at_zero()


@pytest.mark.slow
def test_a_queued_task_is_accepted_at_zero_and_done(cold: Service, poll: Callable[..., Any]) -> None:
    accepted = cold.post(celery=True)
    assert accepted.status_code == 202
    poll(lambda: cold.task(accepted.json()["task_id"])["status"] == "SUCCESS", UPDATE_TIMEOUT_S)


@pytest.mark.slow
def test_ctrl_c_hands_a_running_task_back_and_it_is_no_attempt(tmp_path: Path, poll: Callable[..., Any]) -> None:
    with running_service(tmp_path, poll) as (client, process):
        task_id = submit(client, num_inference_steps=50, batch=8)
        poll(lambda: client.get(f"/api/v1/tasks/{task_id}").json()["status"] == "STARTED")
        process.send_signal(signal.SIGINT)
        process.wait(60)
    with valkey_server(tmp_path), redis.Redis.from_url(own_url(tmp_path), decode_responses=True) as broker:
        assert broker.hmget(KEYS.record(task_id), "status", "attempts") == ["PENDING", "0"]


@pytest.mark.slow
def test_sigterm_ends_the_service_after_the_answer_to_a_request_that_no_stage_has_yet(
    tmp_path: Path, poll: Callable[..., Any]
) -> None:
    photo = sample_photo().read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(photo)}\r\n\r\n"
    with (
        running_service(tmp_path, poll, "--allow-private-urls") as (client, process),
        socket.create_server(("127.0.0.1", 0)) as photos,
        ThreadPoolExecutor(1) as pool,
    ):
        body = {**SMALL, "file_url": data_url(photo)}
        assert client.post("/getImageToImage", json=body).status_code == 200  # all stages have loaded their models
        photos.settimeout(60)
        body["file_url"] = f"http://127.0.0.1:{photos.getsockname()[1]}/photo.png"
        asked = pool.submit(client.post, "/getImageToImage", json=body)
        connection, _ = photos.accept()
        with connection:
            connection.recv(1 << 16)  # the request for the photo
            process.send_signal(signal.SIGTERM)
            threading.Event().wait(WAIT_LOOP_S + 0.5)  # by when Serve has ended a stage that is deleted while idle
            connection.sendall(head.encode() + photo)
            assert asked.result().status_code == 200, asked.result().text
        assert process.wait(60) == 0
