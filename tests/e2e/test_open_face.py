"""One service whose apps have face models and families of models of their own: over HTTP, in the published formats."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml

from deployments.config import YuNetFaceModelConfig
from deployments.diffusion.model.face_encoder import HEAD_SIDE
from deployments.face.head import head_jpeg
from deployments.face.model import load_face_model
from deployments.types import FaceEmbedding, Photo
from serve_app.backends.object_store import FOLDER, PHOTOS
from serve_app.catalog.catalog import CATALOGUES
from serve_app.cli.root import main
from serve_app.launcher import CONFIG
from serve_app.photos.decode import PhotoSettings, decode_photo
from tests.support.diffusion_folders import tiny_unet, write_image_encoder, write_plus_adapter, write_tiny_sdxl
from tests.support.envelopes import QUICK, failure
from tests.support.klein_folders import write_tiny_klein
from tests.support.lora_files import write_lora
from tests.support.onnx_models import marker, photo_of
from tests.support.photos import data_url, png
from tests.support.polling import poll
from tests.support.service import Service, service_on
from tests.support.traces import as_text, forms_of, found, traces_of
from tests.support.yunet_models import AURAFACE, DETECTOR, write_open_face

pytestmark = pytest.mark.slow

OPEN, KLEIN, PLUS = "face-avatar-open", "face-avatar-klein", "face-avatar-plus"
EMBEDDED = yaml.safe_load(CONFIG.read_text())["applications"][0]["args"]["generator"]["models"]["embedded"]
AURAFACE_MODEL: dict[str, Any] = {
    "kind": "yunet",
    "detector": f"models:{DETECTOR}",
    "recogniser": {"kind": "arcface", "file": f"models:{AURAFACE}"},
}
MARKER = png(photo_of((marker(120, 1), 90, 60)))  # a face for YuNet's small model, and for it alone
LONG = {"num_inference_steps": 50, "width": 512, "height": 512, "batch": 8}
PLACES = 4  # `worker.concurrency` of the embedded profile
SOMEONE = data_url(MARKER)
LORA = "loras/ink.safetensors"
STYLES = {
    "ink": {"title": "Ink", "prompt": "{prompt}, in ink", "lora": {"file": LORA}},
    "words": {"title": "Only words", "prompt": "{prompt}, in ink"},
}
FAST = {"num_inference_steps": QUICK["num_inference_steps"], "sampler": "lcm", "lora": {"file": LORA}}
SOMEBODY_ELSE = data_url(png(photo_of((marker(120, 4), 90, 60))))


def download_of(file: Path) -> dict[str, Any]:
    """A catalogue's entry for a file that is there already."""
    known = {"size": file.stat().st_size, "sha256": sha256(file.read_bytes()).hexdigest()}
    source = {"url": "https://models.example/{revision}", "revision": "1", "licence_url": "https://models.example"}
    return {**source, "licence": "MIT", "folder": file.parent.name, "files": {file.name: known}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open-face")
    write_open_face(folder / "models")
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    defaults = app["defaults"] | {"min_similarity": 0.9}
    catalogue = folder / "open.yaml"
    drawn = {**app, "face_model": "auraface", "native_sizes": [[64, 64], [512, 512]]}
    apps = {
        OPEN: {**app, "face_model": "auraface", "defaults": defaults},
        KLEIN: {**drawn, "model": "klein", "instruction": "Redraw this person: {prompt}", "has_guidance": False},
        PLUS: {**drawn, "model": "plus", "styles": STYLES, "fast": FAST, "downloads": ["loras"]},
    }
    (folder / "models" / LORA).parent.mkdir()
    lora = write_lora(folder / "models" / LORA, tiny_unet("sdxl"), "kohya")
    catalogue.write_text(yaml.safe_dump({"apps": apps, "downloads": {"loras": download_of(lora)}}))
    write_tiny_klein(folder / "klein")
    write_tiny_sdxl(folder / "sdxl")
    small = {"dtype": "float32", "threads": 1}
    models = {
        "embedded": EMBEDDED,
        "klein": {"path": str(folder / "klein"), **small},
        "plus": {
            "path": str(folder / "sdxl"),
            "ip_adapter": str(write_plus_adapter(folder, "sdxl")),
            "image_encoder": str(write_image_encoder(folder)),
            **small,
        },
    }
    args: dict[str, Any] = {
        "catalogs": ["embedded", str(catalogue)],
        "models_dir": str(folder / "models"),
        "face": {"models": {"auraface": AURAFACE_MODEL}},
        "generator": {"models": models},
    }
    with service_on(folder, photo_server, **args) as running:
        yield running


def test_each_app_reads_photos_by_its_own_face_model(service: Service) -> None:
    for app_id, photo, other in (
        (OPEN, SOMEONE, f"{service.photos}/astronaut.png"),
        ("face-avatar", f"{service.photos}/astronaut.png", SOMEONE),
    ):
        made = service.make(app_id=app_id, file_url=photo, seed=7, **QUICK)
        assert made["status"] == "SUCCESS"
        failure(service.post(app_id=app_id, file_url=other, **QUICK), 422, "Face Consistent Error")


def test_a_photo_is_checked_as_the_app_that_it_is_for_would_see_it(service: Service) -> None:
    def seen(**fields: str) -> tuple[Any, Any]:
        answer = service.client.post("/api/v1/faces", json={"file_url": SOMEONE, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["output"]["reason"], answer.json()["input"].get("app_id")

    assert seen() == ("no_face", None)
    assert seen(app_id="face-avatar") == ("no_face", "face-avatar")
    assert seen(app_id=OPEN) == (None, OPEN)
    form = {"data": {"app_id": OPEN}, "files": {"file": MARKER}}
    assert service.client.post("/api/v1/faces", **form).json()["output"]["accepted"]
    unknown = service.client.post("/api/v1/faces", json={"file_url": SOMEONE, "app_id": "nobody"})
    failure(unknown, 404, "Unknown App")


def test_the_least_likeness_is_the_apps_own_and_a_request_may_lower_it(service: Service) -> None:
    """No avatar shows a marker, so each drawing is less like it than any likeness that is asked for."""
    made = service.make(app_id=OPEN, file_url=SOMEONE, seed=7, **QUICK)
    assert made["input"]["min_similarity"] == 0.9
    assert made["output"]["face_similarity"] == [None]
    assert [attempt["seed"] for attempt in made["output"]["attempts"][0]] == [7, 8, 9]
    lower = service.make(app_id=OPEN, file_url=SOMEONE, seed=7, min_similarity=0.1, **QUICK)
    assert lower["input"]["min_similarity"] == 0.1
    assert service.make(**QUICK)["input"]["min_similarity"] is None


def queued(service: Service, **fields: Any) -> dict[str, Any]:
    """The envelope of a queued task that is over."""
    answer = service.post(celery=True, **fields)
    assert answer.status_code == 202, answer.text

    def finished() -> dict[str, Any] | None:
        envelope: dict[str, Any] = service.client.get(f"/api/v1/tasks/{answer.json()['task_id']}").json()
        return envelope if envelope["status"] not in ("PENDING", "STARTED") else None

    return poll(finished)


def test_a_queued_task_of_the_app_is_drawn_and_its_receipt_names_the_files_of_its_face_model(service: Service) -> None:
    done = queued(service, app_id=OPEN, file_url=SOMEONE, seed=7, **QUICK)
    assert done["status"] == "SUCCESS", done
    weights = done["output"]["receipts"][0]["weights"]
    assert {name for name in weights if name.startswith("face/")} == {f"face/{DETECTOR}", f"face/{AURAFACE}"}


@pytest.mark.parametrize(
    ("app_id", "sampler", "part"), [(KLEIN, "FlowMatchEuler", "transformer"), (PLUS, "Euler", "image_encoder")]
)
def test_models_that_see_the_head_draw_beside_others_the_same_pixels_each_time(
    service: Service, app_id: str, sampler: str, part: str
) -> None:
    fields = {"app_id": app_id, "seed": 7, "batch": 2, **QUICK}
    made = service.make(file_url=SOMEONE, **fields)
    assert made["status"] == "SUCCESS"
    with ThreadPoolExecutor() as clients:  # amid images of another family and of somebody else
        beside = [clients.submit(service.make, seed=number, **QUICK) for number in range(2)] + [
            clients.submit(service.make, file_url=SOMEBODY_ELSE, **fields)
        ]
        again = queued(service, file_url=SOMEONE, **fields)
        others = [each.result() for each in beside]
    assert again["status"] == "SUCCESS", again
    first, second, other = (
        [service.pixels(url) for url in each["output"]["result"]] for each in (made, again, others[2])
    )
    for one, two, somebody_else in zip(first, second, other, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1
        assert np.abs(one.astype(int) - somebody_else).max() > 1
    receipt = made["output"]["receipts"][0]
    assert receipt["sampler"] == sampler
    assert any(name.startswith(f"{part}/") for name in receipt["weights"])


def test_a_prompt_that_the_model_cannot_read_whole_is_a_422_with_its_limit(service: Service) -> None:
    data = failure(service.post(app_id=KLEIN, file_url=SOMEONE, prompt="word " * 200, **QUICK), 422, "Invalid Request")
    assert "512" in data["message"]
    assert data["accepted"] == {"max_tokens": 512}


def test_what_the_model_has_not_is_said_to_have_no_effect(service: Service) -> None:
    plain = service.make(app_id=KLEIN, file_url=SOMEONE, seed=7, **QUICK)
    asked = service.make(app_id=KLEIN, file_url=SOMEONE, seed=7, guidance_scale=9, negative_prompt="hat", **QUICK)
    of_plain, of_asked = ([warning["code"] for warning in made["output"]["warnings"]] for made in (plain, asked))
    assert "no_guidance" not in of_plain
    assert of_asked == [*of_plain, "no_guidance"]
    assert service.make(guidance_scale=2, **QUICK)["output"]["warnings"] == []


@pytest.mark.parametrize("app_id", [KLEIN, PLUS])
def test_a_waiting_task_and_one_that_is_drawn_are_cancelled_and_make_room(service: Service, app_id: str) -> None:
    def task(task_id: str) -> dict[str, Any]:
        envelope: dict[str, Any] = service.client.get(f"/api/v1/tasks/{task_id}").json()
        return envelope

    def is_drawn(task_id: str) -> bool:
        return task(task_id)["status"] == "STARTED" and task(task_id)["output"]["progress"]["step"] > 0

    def cancel(task_id: str) -> dict[str, Any]:
        answer = service.client.delete(f"/api/v1/tasks/{task_id}")
        assert answer.status_code == 200, answer.text
        envelope: dict[str, Any] = answer.json()
        return envelope

    def queue(**fields: Any) -> str:
        answer = service.post(app_id=app_id, file_url=SOMEONE, celery=True, **fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    drawn = [queue(**LONG) for _ in range(PLACES)]
    waiting = queue(**LONG)
    told = task(waiting)  # at once: a second worker may come
    assert told["status"] == "PENDING"
    assert 1 <= told["output"]["progress"]["queue_position"] <= PLACES + 1
    assert cancel(waiting)["status"] == "CANCELLED"
    poll(lambda: is_drawn(drawn[0]), 60)
    for task_id in drawn:
        assert cancel(task_id)["status"] == "CANCELLED"
        assert cancel(task_id)["output"] == {}
    assert queued(service, app_id=app_id, file_url=SOMEONE, seed=7, **QUICK)["status"] == "SUCCESS"
    assert {task(task_id)["status"] for task_id in (waiting, *drawn)} == {"CANCELLED"}


@pytest.mark.parametrize("app_id", [KLEIN, PLUS])
def test_an_image_that_is_not_like_the_person_is_drawn_again_with_the_next_seeds(service: Service, app_id: str) -> None:
    """No avatar shows a marker, so none is like it."""
    made = service.make(app_id=app_id, file_url=SOMEONE, seed=7, min_similarity=0.5, **QUICK)
    (attempts,) = made["output"]["attempts"]
    assert [attempt["seed"] for attempt in attempts] == [7, 8, 9]
    (kept,) = made["output"]["seeds"]
    alone = service.make(app_id=app_id, file_url=SOMEONE, seed=kept, **QUICK)
    shas = {each["output"]["receipts"][0]["drawn_sha256"] for each in (made, alone)}
    assert len(shas) == 1


Replay = Callable[..., list[str]]


@pytest.fixture
def replay(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Replay:
    """What `face-avatar replay` says, after its first line, of a receipt and these photos of the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACE_AVATAR_URL", service.url)
    monkeypatch.setenv("FACE_AVATAR_TOKEN", str(service.client.headers["Authorization"]).removeprefix("Bearer "))

    def run(receipt: dict[str, Any], *photos: str) -> list[str]:
        Path("receipt.json").write_text(json.dumps(receipt))
        monkeypatch.setattr(sys, "argv", ["face-avatar", "replay", "receipt.json", *photos])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert not ended.value.code, said
        return said.out.splitlines()[1:]

    return run


@pytest.mark.parametrize("app_id", [KLEIN, PLUS])
def test_a_receipt_is_replayed_to_the_same_pixels_of_one_photo_and_of_two(
    service: Service, app_id: str, replay: Replay
) -> None:
    photos = {"one.png": MARKER, "two.png": png(photo_of((marker(150, 1), 200, 180)))}
    for name, photo in photos.items():
        Path(name).write_bytes(photo)
    digests = set()
    for names in (["one.png"], ["one.png", "two.png"]):
        urls = [data_url(photos[name]) for name in names]
        made = service.make(app_id=app_id, file_url=..., file_urls=urls, seed=7, **QUICK)
        receipt = made["output"]["receipts"][0]
        assert receipt["photos"] == len(names)
        digests.add(receipt["drawn_sha256"])
        assert replay(receipt, *names) == ["The same pixels as then."]
    assert len(digests) == 2  # the second photo counts


def test_rows_of_all_families_are_drawn_in_one_replica_at_a_time(service: Service) -> None:
    """While an image of the embedded model is half done, one of each other family is begun and ended."""
    slow = {"num_inference_steps": 50, "width": 256, "height": 256, "batch": 4, "seed": 7}
    alone = {app_id: service.make(app_id=app_id, file_url=SOMEONE, seed=7, **QUICK) for app_id in (KLEIN, PLUS)}
    answer = service.post(celery=True, **slow)

    def progress() -> tuple[str, int]:
        envelope = service.client.get(f"/api/v1/tasks/{answer.json()['task_id']}").json()
        return envelope["status"], envelope["output"].get("progress", {}).get("step", 0)

    poll(lambda: progress()[1] > 0, 60)
    beside = {app_id: service.make(app_id=app_id, file_url=SOMEONE, seed=7, **QUICK) for app_id in (KLEIN, PLUS)}
    status, step = progress()
    assert status == "STARTED"
    assert 0 < step < 50
    for app_id, made in beside.items():
        first, second = (each["output"]["receipts"][0]["drawn_sha256"] for each in (alone[app_id], made))
        assert first == second, app_id
    poll(lambda: progress()[0] == "SUCCESS", 120)


def noisy_photo(number: int, left: int) -> bytes:
    """A PNG of somebody whom the face model knows, with noise that no other file has."""
    pixels = photo_of((marker(200, 1), left, 120))
    noise = np.random.default_rng(number).integers(-6, 7, pixels.shape)
    return png((pixels.astype(int) + noise).clip(0, 255).astype(np.uint8))


def as_read(photos: Sequence[bytes], models: Path) -> list[tuple[Photo, FaceEmbedding]]:
    """The photos, and of each the face with its head, as the face stage reads them."""
    config = YuNetFaceModelConfig.model_validate(AURAFACE_MODEL).located(models)
    model, read = load_face_model(config), []
    for file in photos:
        photo = decode_photo(file, PhotoSettings())
        (face,) = model.embed([photo])
        assert isinstance(face, FaceEmbedding)
        read.append((photo, replace(face, heads=(head_jpeg(photo.pixels, face, HEAD_SIDE),))))
    return read


@pytest.mark.parametrize("app_id", [KLEIN, PLUS])
def test_no_byte_of_a_photo_or_of_a_head_is_on_a_disk_when_tasks_of_several_photos_are_over(
    service: Service, app_id: str, tmp_path: Path
) -> None:
    """Nor in a log or a record. The same search finds each trace where it is."""
    photos = [noisy_photo(1, 90), noisy_photo(2, 300)]
    fields = {"app_id": app_id, "file_url": ..., "file_urls": [data_url(photo) for photo in photos], "seed": 7, **QUICK}
    assert service.make(**fields)["status"] == "SUCCESS"
    assert queued(service, **fields)["status"] == "SUCCESS"
    cancelled = service.post(**(fields | LONG), celery=True).json()["task_id"]
    service.client.delete(f"/api/v1/tasks/{cancelled}")
    poll(lambda: not list((service.data_dir / FOLDER / PHOTOS).glob("*")))
    logs = Path(ray._private.worker._global_node.get_session_dir_path())
    assert list((logs / "logs").rglob("*serve*"))
    assert list((service.data_dir / "broker").rglob("*.aof"))
    for file, (photo, face) in zip(photos, as_read(photos, service.data_dir.parent / "models"), strict=True):
        traces = traces_of(file, photo, face)
        for name, data in {**forms_of(file, photo, face), **as_text(file, face)}.items():
            (tmp_path / name).write_bytes(data)
        assert {kind for kind, _ in found(traces, tmp_path)} == set(traces)
        assert found(traces, service.data_dir, logs) == []


def test_a_style_with_a_lora_is_drawn_amid_others_named_in_its_receipt_and_replayed(
    service: Service, replay: Replay
) -> None:
    asked = {"app_id": PLUS, "file_url": SOMEONE, "seed": 7, "prompt": "an owl", **QUICK}
    styles = ["ink", "words", None, "ink"]
    with ThreadPoolExecutor(len(styles)) as clients:
        made = list(clients.map(lambda style: service.make(**asked, style=style), styles))
    inked, in_words, plain, _again = made
    assert [each["input"]["prompt"] for each in made] == [
        "an owl, in ink",
        "an owl, in ink",
        "an owl",
        "an owl, in ink",
    ]
    pictures = [service.pixels(each["output"]["result"][0]) for each in made]
    assert np.abs(pictures[0].astype(int) - pictures[3]).max() <= 1
    for other in (1, 2):
        assert np.abs(pictures[0].astype(int) - pictures[other]).mean() > 1
    receipt = inked["output"]["receipts"][0]
    assert receipt["style"] == "ink"
    assert [name for name in receipt["weights"] if name.startswith("lora/")] == [f"lora/{PLUS}/ink"]
    for other in (in_words, plain):
        assert not any(name.startswith("lora/") for name in other["output"]["receipts"][0]["weights"])
    listed = {app["app_id"]: app for app in service.client.get("/api/v1/apps").json()["output"]["apps"]}
    assert listed[PLUS]["styles"].keys() == {"ink", "words"}
    assert listed[OPEN]["styles"] == {}
    failure(service.post(**asked, style="oil"), 422, "Invalid Request")
    Path("one.png").write_bytes(MARKER)
    alone = service.make(**asked, style="ink")  # without the roundings of others
    assert replay(alone["output"]["receipts"][0], "one.png") == ["The same pixels as then."]


def test_a_fast_image_is_drawn_amid_others_as_its_receipt_says_and_replayed(service: Service, replay: Replay) -> None:
    asked = {"app_id": PLUS, "file_url": SOMEONE, "seed": 7, "prompt": "an owl", **QUICK}
    with ThreadPoolExecutor(3) as clients:
        made = list(clients.map(lambda how: service.make(**asked, **how), [{"quality": "fast"}, {}, {"style": "ink"}]))
    fast, *others = (each["output"]["receipts"][0] for each in made)
    assert (fast["quality"], fast["sampler"], fast["guidance_scale"]) == ("fast", "LCM", 1.0)
    assert [name for name in fast["weights"] if name.startswith("lora/")] == [f"lora/{PLUS}/quality=fast"]
    assert {(other["quality"], other["sampler"]) for other in others} == {("standard", "Euler")}
    assert service.post(**asked, quality="fast", guidance_scale=3).status_code == 422
    failure(service.post(**asked | {"app_id": OPEN}, quality="fast"), 422, "Invalid Request")
    Path("one.png").write_bytes(MARKER)
    alone = service.make(**asked, quality="fast")  # without the roundings of others
    assert replay(alone["output"]["receipts"][0], "one.png") == ["The same pixels as then."]
