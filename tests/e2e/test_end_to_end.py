"""The same tests on both profiles, each started once: embedded, and production in small on a cluster of its own."""

import concurrent.futures
import copy
import io
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
import yaml
from PIL import Image

from deployments.types import Pixels
from serve_app.backends.redis import BrokerSettings, own_url
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.errors import MAX_RETRY_AFTER_S
from serve_app.launcher import CONFIG as EMBEDDED
from serve_app.launcher import ServiceOptions, free_port, run_service
from serve_app.tasks.keys import TaskKeys
from tests.support.onnx_models import marker, photo_of
from tests.support.photos import data_url, photo_files, png
from tests.support.production import CONFIG as PRODUCTION
from tests.support.production import Production, as_in_production, run_production, wait_until
from tests.support.tolerance import assert_shows

pytestmark = pytest.mark.slow

REQUEST_TIMEOUT_S = 120
FINISH_TIMEOUT_S = 120
OUTAGE_TIMEOUT_S = 15  # in which a refusal comes while the broker is away
SMALL: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 2, "seed": 7}
LONG: dict[str, Any] = {"width": 512, "height": 512, "num_inference_steps": 50, "seed": 7}
KEYS = TaskKeys(BrokerSettings().prefix)

on_production_alone = pytest.mark.parametrize("profile", ["production"], indirect=True, scope="module")


@dataclass(frozen=True)
class Profile:
    """A running service as a client sees it, and what stands behind it. Photos are data URLs."""

    client: httpx.Client
    faces: Sequence[str]
    faceless: str
    broker: "redis.Redis"
    places: int  # for tasks in all workers together
    adapted_app: str = "face-avatar"  # one whose model obeys `ip_adapter_scale`
    production: Production | None = None

    def post(self, face: int = 0, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"app_id": "face-avatar", "file_url": self.faces[face], **SMALL, **fields}
        return self.client.post("/getImageToImage", json=body, headers=headers)

    def make(self, face: int = 0, **fields: Any) -> dict[str, Any]:
        """The envelope of a synchronous request that succeeds."""
        return envelope(self.post(face, **fields), 200)

    def queue(self, face: int = 0, **fields: Any) -> str:
        """The id of a queued task."""
        return str(envelope(self.post(face, celery=True, **fields), 202)["task_id"])

    def task(self, task_id: str) -> dict[str, Any]:
        return envelope(self.client.get(f"/api/v1/tasks/{task_id}"), 200)

    def cancel(self, task_id: str) -> dict[str, Any]:
        return envelope(self.client.delete(f"/api/v1/tasks/{task_id}"), 200)

    def reach(self, task_id: str, *statuses: str) -> dict[str, Any]:
        """The envelope of a task once it has one of these statuses."""
        wait_until(lambda: self.task(task_id)["status"] in statuses, f"the task is {statuses}", FINISH_TIMEOUT_S)
        return self.task(task_id)

    def done(self, task_id: str) -> dict[str, Any]:
        """The envelope of a task that succeeds."""
        done = self.reach(task_id, "SUCCESS", "FAILED", "CANCELLED")
        assert done["status"] == "SUCCESS", done
        return done

    def attempts(self, task_id: str) -> int:
        return int(self.broker.hget(KEYS.record(task_id), "attempts") or 0)

    def verify(self, data: bytes) -> dict[str, Any]:
        """What the service makes of a picture."""
        answer = self.client.post("/api/v1/verify", files={"file": ("picture", data)})
        output: dict[str, Any] = envelope(answer, 200)["output"]
        return output

    def recorded(self) -> int:
        return len(list(self.broker.scan_iter(KEYS.record("*"))))


def envelope(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    read: dict[str, Any] = answer.json()
    return read


def image(url: str) -> Image.Image:
    """What an URL gives to somebody without a token."""
    answer = httpx.get(url, timeout=REQUEST_TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def pictures(done: dict[str, Any]) -> Pixels:
    """(images, h, w, channels)"""
    return np.stack([np.asarray(image(url)) for url in done["output"]["result"]])


def farthest(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other).max())


def without_queries(done: dict[str, Any]) -> dict[str, Any]:
    """An envelope without the signatures of its URLs, which are new in each answer."""
    output = done["output"]
    urls = {key: [url.partition("?")[0] for url in output[key]] for key in ("result", "low_res_urls")}
    return {**done, "output": output | urls}


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


@pytest.fixture(scope="module", params=["embedded", "production"])
def profile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Profile]:
    start = embedded_profile if request.param == "embedded" else production_profile
    yield from start(tmp_path_factory.mktemp(request.param))


def embedded_profile(folder: Path) -> Iterator[Profile]:
    photos = {name: data_url(data, f"image/{name[-3:]}") for name, data in photo_files().items()}
    faces = [photos[name] for name in ("astronaut.png", "hanks.png", "six.jpg")]
    with run_service(ServiceOptions(port=free_port(), data_dir=folder)) as service:
        token = (folder / TOKEN_FILE).read_text().strip()
        with client(service.url, token) as http, redis.Redis.from_url(own_url(folder)) as broker:
            yield Profile(http, faces, photos["cat.png"], broker, places(EMBEDDED))


def production_profile(folder: Path) -> Iterator[Profile]:
    faces = [data_url(png(photo_of((marker(160, identity), 200, 240)))) for identity in range(4)]
    with (
        run_production(folder) as service,
        client(service.url, service.tokens[0]) as http,
        redis.Redis.from_url(service.valkey.url) as broker,
    ):
        profile = Profile(
            http, faces, data_url(png(photo_of())), broker, places(PRODUCTION), "face-avatar-sdxl", service
        )
        refused = profile.post()  # the GPU stages stand at zero
        assert envelope(refused, 503)["error"] == "Overloaded"
        assert 1 <= int(refused.headers["Retry-After"]) <= MAX_RETRY_AFTER_S
        wait_until(lambda: profile.post().status_code == 200, "the GPU stages are up", FINISH_TIMEOUT_S)
        yield profile


def client(url: str, token: str, timeout_s: float = REQUEST_TIMEOUT_S) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout_s)


def places(config: Path) -> int:
    application = yaml.safe_load(config.read_text())["applications"][0]
    scaling = {each["name"]: each.get("autoscaling_config") for each in application["deployments"]}
    return int(application["args"]["worker"]["concurrency"] * scaling["AvatarWorker"]["min_replicas"])


@pytest.fixture
def production(profile: Profile) -> Production:
    assert profile.production is not None
    return profile.production


def test_every_app_draws_what_was_asked_for_and_anybody_with_the_urls_may_look(profile: Profile) -> None:
    apps = envelope(profile.client.get("/api/v1/apps"), 200)["output"]["apps"]
    for app in apps:
        done = profile.make(app_id=app["app_id"], batch=2, height=320, seed=40)
        output = done["output"]
        assert output["seeds"] == [40, 41]
        drawn = [image(url) for url in output["result"]]
        assert [(picture.format, picture.size) for picture in drawn] == [("PNG", (256, 320))] * 2
        assert farthest(*(np.asarray(picture) for picture in drawn)) > 20
        for url in output["low_res_urls"]:
            assert image(url).format == "WEBP"


def test_a_background_is_cut_out(profile: Profile) -> None:
    transparent, filled = pictures(profile.make(remove_background=True)), pictures(profile.make(bg_color="#00ff00"))
    alpha = transparent[0, :, :, 3]
    assert alpha.min() < 128
    assert (filled[0][alpha == 0] == (0, 255, 0)).all()


def test_the_same_seed_gives_the_same_pixels_synchronous_or_queued(profile: Profile) -> None:
    first = pictures(profile.make())
    assert np.array_equal(first, pictures(profile.make()))
    assert np.array_equal(first, pictures(profile.done(profile.queue())))
    assert farthest(first, pictures(profile.make(seed=8))) > 20


def test_a_face_that_does_not_count_leaves_no_trace(profile: Profile) -> None:
    one, other = (pictures(profile.make(face, app_id=profile.adapted_app, ip_adapter_scale=0)) for face in range(2))
    assert np.array_equal(one, other)
    assert farthest(one, pictures(profile.make(0, app_id=profile.adapted_app))) > 20


def test_a_queued_task_is_accepted_then_tells_how_far_it_is_then_succeeds(profile: Profile) -> None:
    accepted = envelope(profile.post(celery=True, batch=3, num_inference_steps=30), 202)
    assert accepted["output"]["progress"]["images"] == 3
    seen = [accepted]

    def finished() -> bool:
        seen.append(profile.task(accepted["task_id"]))
        return bool(seen[-1]["status"] not in ("PENDING", "STARTED"))

    wait_until(finished, "the task is finished", FINISH_TIMEOUT_S)
    statuses = [status for status, _ in itertools.groupby(step["status"] for step in seen)]
    assert statuses in (["PENDING", "STARTED", "SUCCESS"], ["STARTED", "SUCCESS"])  # a worker may be that quick
    told = [step["output"]["progress"] for step in seen[:-1]]
    images_done, steps = [progress["images_done"] for progress in told], [progress["step"] for progress in told]
    assert images_done == sorted(images_done)
    assert steps == sorted(steps)
    assert any(0 < step < 30 for step in steps)
    assert any(progress["eta_s"] for progress in told)
    assert len(pictures(seen[-1])) == 3


def test_the_task_is_the_same_by_get_and_by_post_and_as_its_answer_said(profile: Profile) -> None:
    made = profile.make(ref_id="mine")
    got = profile.task(made["task_id"])
    posted = envelope(profile.client.post("/getImage", json={"id": made["task_id"]}), 200)
    assert without_queries(got) == without_queries(posted)
    assert without_queries(got) | {"time_required": 0} == without_queries(made) | {"time_required": 0}


def test_a_photo_without_a_face_is_the_clients_mistake_and_is_tried_once(profile: Profile) -> None:
    refused = envelope(profile.post(file_url=profile.faceless), 422)
    assert refused["error"] == "Face Consistent Error"
    task_id = profile.queue(file_url=profile.faceless)
    failed = profile.reach(task_id, "FAILED", "SUCCESS")
    assert (failed["status"], failed["error"]) == ("FAILED", "Face Consistent Error")
    assert profile.attempts(task_id) == 1


def test_a_result_is_known_as_ours_and_a_changed_one_as_changed(profile: Profile) -> None:
    made = {kind: profile.make(output_format=kind) for kind in ("png", "webp", "jpeg")}
    for kind, done in made.items():
        for url in (done["output"]["result"][0], done["output"]["low_res_urls"][0]):
            data = httpx.get(url).content
            found = profile.verify(data)
            assert (found["verdict"], found["trust"]) == ("genuine", "development"), kind
            said = found["credentials"]["statement"]
            assert (said["app"], said["seed"], said["num_inference_steps"]) == (done["app_id"], 7, 2)
            assert not {"prompt", "task_id"} & said.keys()
    changed = bytearray(httpx.get(made["jpeg"]["output"]["result"][0]).content)
    changed[-100] ^= 1
    assert profile.verify(bytes(changed))["verdict"] == "altered"
    assert profile.verify(photo_files()["astronaut.png"])["verdict"] == "unsigned"


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"x" * 999, b"RIFF0000WEBPC2PA"])
def test_what_is_no_picture_cannot_be_verified(profile: Profile, data: bytes) -> None:
    answer = profile.client.post("/api/v1/verify", files={"file": ("picture", data)})
    assert envelope(answer, 422)["error"] == "Image URL Error"


def test_a_task_that_nobody_made_is_unknown(profile: Profile) -> None:
    for answer in (
        profile.client.get(f"/api/v1/tasks/{uuid.uuid4()}"),
        profile.client.delete(f"/api/v1/tasks/{uuid.uuid4()}"),
        profile.client.post("/getImage", json={"id": str(uuid.uuid4())}),
    ):
        assert envelope(answer, 404)["error"] == "Unknown Task"


def test_waiting_and_running_tasks_are_cancelled_and_make_room(profile: Profile) -> None:
    long = {**LONG, "app_id": profile.adapted_app}  # klein in small would be done before all of them run
    running = [profile.queue(**long) for _ in range(profile.places)]
    for task_id in running:
        profile.reach(task_id, "STARTED")
    waiting = profile.queue(**long)
    queued = profile.task(waiting)
    assert (queued["status"], queued["output"]["progress"]["queue_position"]) == ("PENDING", 1)
    for task_id in (waiting, *running):
        assert profile.cancel(task_id)["status"] == "CANCELLED"
        assert profile.cancel(task_id)["output"] == {}
    assert profile.done(profile.queue())
    assert profile.attempts(waiting) == 0
    assert {profile.task(task_id)["status"] for task_id in running} == {"CANCELLED"}


def test_a_cancelled_synchronous_request_is_answered_as_such(profile: Profile) -> None:
    before = set(profile.broker.scan_iter(KEYS.record("*")))
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(profile.post, **LONG, batch=8)
        wait_until(lambda: profile.recorded() > len(before), "the request is recorded")
        (record,) = set(profile.broker.scan_iter(KEYS.record("*"))) - before
        profile.cancel(record.decode().rpartition(":")[2])
        assert waiting.result().json()["status"] == "CANCELLED"


@pytest.mark.parametrize("queued", [False, True])
def test_deleting_a_finished_task_ends_its_urls(profile: Profile, queued: bool) -> None:
    done = profile.done(profile.queue(batch=2)) if queued else profile.make(batch=2)
    urls = done["output"]["result"] + done["output"]["low_res_urls"]
    assert all(image(url) for url in urls)
    for _ in range(2):
        assert profile.cancel(done["task_id"])["output"]["result"] == []
    assert {httpx.get(url).status_code for url in urls} == {404}


@pytest.mark.parametrize("queued", [False, True])
def test_repeats_with_one_idempotency_key_are_one_task(profile: Profile, queued: bool) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    before = profile.recorded()
    answers = at_once(*[lambda: profile.post(headers=headers, celery=queued)] * 4)
    answers.append(profile.post(headers=headers, celery=queued))
    assert {answer.status_code for answer in answers} <= ({200, 202} if queued else {200}), [a.text for a in answers]
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert profile.recorded() == before + 1
    assert envelope(profile.post(headers=headers, celery=queued, seed=8), 409)["error"] == "Conflict"
    assert len(pictures(profile.done(answers[0].json()["task_id"]))) == 1


def test_people_who_ask_at_once_get_their_own_faces(profile: Profile) -> None:
    everybody = range(len(profile.faces))
    alone = [pictures(profile.make(face)) for face in everybody]
    for one, other in itertools.combinations(alone, 2):
        assert farthest(one, other) > 20
    together = at_once(*[lambda face=face: pictures(profile.make(face, batch=2)) for face in everybody])
    references = {str(face): picture[0] for face, picture in enumerate(alone)}
    for face in everybody:
        assert_shows(together[face][0], str(face), references)
    queued = [profile.queue(face) for face in everybody]
    for face in everybody:
        assert_shows(pictures(profile.done(queued[face]))[0], str(face), references)


@on_production_alone
def test_the_small_cluster_runs_production_yaml_but_for_paths_ports_and_devices(production: Production) -> None:
    assert as_in_production(production.config) == yaml.safe_load(PRODUCTION.read_text())


@on_production_alone
def test_cpu_stages_run_on_cpu_nodes_and_gpu_stages_on_gpu_nodes(profile: Profile, production: Production) -> None:
    profile.make()
    nodes = production.cluster.nodes()
    for name, deployment in production.cluster.application()["deployments"].items():
        wanted = "GPU" if name in ("FaceEmbedder", "AvatarGenerator") else "cpu_node"
        # One that was asked for in a busy moment may still wait for a node.
        running = [replica for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
        assert running, name
        assert all(wanted in nodes[replica["node_id"]] for replica in running), name


@on_production_alone
def test_serves_api_shows_no_secret(production: Production) -> None:
    assert "face-avatar" in production.cluster.get("/api/serve/applications/")["applications"]
    shown = str(production.cluster.get("/api/serve/applications/"))
    assert production.valkey.password not in shown


@on_production_alone
def test_a_task_of_another_token_is_unknown_and_stays(profile: Profile, production: Production) -> None:
    task_id = profile.queue()
    with client(production.url, production.tokens[1]) as other:
        assert envelope(other.get(f"/api/v1/tasks/{task_id}"), 404)["error"] == "Unknown Task"
        assert envelope(other.delete(f"/api/v1/tasks/{task_id}"), 404)["error"] == "Unknown Task"
        assert envelope(other.post("/getImage", json={"id": task_id}), 404)["error"] == "Unknown Task"
    assert profile.done(task_id)


@on_production_alone
@pytest.mark.parametrize(("missing", "said"), [("broker", "set broker.url to"), ("store", "set store.url to")])
def test_a_cluster_refuses_what_is_kept_on_one_node(production: Production, missing: str, said: str) -> None:
    code = f"""
import ray
from serve_app.generation.container import Container
from serve_app.settings import Settings
ray.init(logging_level="ERROR", log_to_driver=False)
try:
    Container.of(Settings({missing}={{"url": None}}), None, None, None)
except ValueError as error:
    print(error)
"""
    assert f"the cluster has 3 nodes: {said}" in production.cluster.run("python", "-c", code)


@on_production_alone
def test_while_the_broker_is_away_what_was_accepted_waits_and_nothing_is_lost(
    profile: Profile, production: Production
) -> None:
    for _ in range(20):
        envelope(profile.client.get("/api/v1/apps"), 200)  # every ingress has seen the token lately
    accepted = [profile.queue(seed=seed, num_inference_steps=30) for seed in range(profile.places + 8)]
    assert profile.task(accepted[-1])["status"] == "PENDING"
    production.valkey.kill()

    with client(production.url, production.tokens[0], OUTAGE_TIMEOUT_S) as impatient:
        during = replace(profile, client=impatient)
        refused = during.post(celery=True)
        assert envelope(refused, 503)["error"] == "Overloaded"
        assert int(refused.headers["Retry-After"]) >= 1
        assert envelope(impatient.get(f"/api/v1/tasks/{accepted[0]}"), 503)["error"] == "Overloaded"
        assert impatient.get("/readyz").status_code == 503
        assert impatient.get("/healthz").status_code == 200
    made = profile.make()
    assert pictures(made).shape == (1, 256, 256, 3)

    production.valkey.start()
    for task_id in accepted:
        assert len(pictures(profile.done(task_id))) == 1
    references = {"the same": pictures(made)[0], "another": pictures(profile.make(seed=8))[0]}
    assert_shows(pictures(profile.done(profile.queue()))[0], "the same", references)  # made amid others, now alone


@on_production_alone
def test_a_config_with_an_unknown_setting_leaves_the_application_that_runs(
    profile: Profile, production: Production, tmp_path: Path
) -> None:
    def deploy(config: dict[str, Any]) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        address = production.cluster.dashboard_url
        production.cluster.run("serve", "deploy", "--address", address, str(tmp_path / "config.yaml"))

    def status() -> str:
        return str(production.cluster.application().get("status"))

    broken = copy.deepcopy(production.config)
    broken["applications"][0]["args"]["nonsense"] = 1
    try:
        deploy(broken)
        wait_until(lambda: status() == "DEPLOY_FAILED", "the broken config is refused")
        assert pictures(profile.make(remove_background=True)).shape == (1, 256, 256, 4)
        assert profile.done(profile.queue())
    finally:
        deploy(production.config)
        wait_until(lambda: status() == "RUNNING", "the former config runs again")
