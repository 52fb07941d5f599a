"""One service whose apps have face models and families of models of their own: over HTTP, in the published formats."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import yaml

from serve_app.catalog.catalog import CATALOGUES
from serve_app.launcher import CONFIG
from tests.support.diffusion_folders import write_image_encoder, write_plus_adapter, write_tiny_sdxl
from tests.support.envelopes import QUICK, failure
from tests.support.klein_folders import write_tiny_klein
from tests.support.onnx_models import marker, photo_of
from tests.support.photos import data_url, png
from tests.support.polling import poll
from tests.support.service import Service, service_on
from tests.support.yunet_models import AURAFACE, DETECTOR, write_open_face

pytestmark = pytest.mark.slow

OPEN, KLEIN, PLUS = "face-avatar-open", "face-avatar-klein", "face-avatar-plus"
EMBEDDED = yaml.safe_load(CONFIG.read_text())["applications"][0]["args"]["generator"]["models"]["embedded"]
MARKER = png(photo_of((marker(120, 1), 90, 60)))  # a face for YuNet's small model, and for it alone
SOMEONE = data_url(MARKER)
SOMEBODY_ELSE = data_url(png(photo_of((marker(120, 4), 90, 60))))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, photo_server: str) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("open-face")
    write_open_face(folder / "models")
    app = yaml.safe_load((CATALOGUES / "embedded.yaml").read_text())["apps"]["face-avatar"]
    defaults = app["defaults"] | {"min_similarity": 0.9}
    catalogue = folder / "open.yaml"
    drawn = {**app, "face_model": "auraface", "native_sizes": [[64, 64]]}
    apps = {
        OPEN: {**app, "face_model": "auraface", "defaults": defaults},
        KLEIN: {**drawn, "model": "klein", "instruction": "Redraw this person: {prompt}", "has_guidance": False},
        PLUS: {**drawn, "model": "plus"},
    }
    catalogue.write_text(yaml.safe_dump({"apps": apps}))
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
    auraface = {
        "kind": "yunet",
        "detector": f"models:{DETECTOR}",
        "recogniser": {"kind": "arcface", "file": f"models:{AURAFACE}"},
    }
    args: dict[str, Any] = {
        "catalogs": ["embedded", str(catalogue)],
        "models_dir": str(folder / "models"),
        "face": {"models": {"auraface": auraface}},
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
    assert plain["output"]["warnings"] == []
    assert [warning["code"] for warning in asked["output"]["warnings"]] == ["no_guidance"]
    assert service.make(guidance_scale=2, **QUICK)["output"]["warnings"] == []


def test_no_head_is_written_anywhere(service: Service) -> None:
    """Nor is a photo: the markers of JPEG are in no file of the service but its results."""
    queued(service, app_id=KLEIN, file_url=SOMEONE, seed=7, **QUICK)
    for path in service.data_dir.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".png", ".webp"):
            assert b"\xff\xd8\xff\xe0" not in path.read_bytes(), path
