"""Several photos of one person, over HTTP."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.embedded.training.evaluate.figures import DARK_BLACK
from deployments.embedded.training.renderer.photo import render_photo
from serve_app.backends.object_store import FOLDER, PHOTOS, photo_keys
from serve_app.photos.sample import sample_photo
from tests.support.photos import data_url, photo_files
from tests.support.service import Service

QUICK: dict[str, Any] = {"width": 256, "height": 256, "num_inference_steps": 2, "seed": 5}
ONE, OTHER, NOBODY = "astronaut.png", "hanks.png", "cat.png"
ENDED_S = 60


def urls(service: Service, *names: str) -> list[str]:
    return [f"{service.photos}/{name}" for name in names]


def made(service: Service, *names: str, **fields: Any) -> dict[str, Any]:
    return service.make(file_url=..., file_urls=urls(service, *names), **QUICK, **fields)


def drawn(envelope: dict[str, Any]) -> str:
    sha256: str = envelope["output"]["receipts"][0]["drawn_sha256"]
    return sha256


def drawn_man() -> bytes:
    """A drawing of somebody who looks otherwise than the astronaut in all that the embedded model reads."""
    man = replace(DARK_BLACK, gender="man", hair_style="bald", beard="full", glasses="round", hat="none")
    file = io.BytesIO()
    render_photo(man, np.random.default_rng(5), 256).picture.convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_an_avatar_of_several_photos_is_of_all_of_them_in_whatever_order(service: Service) -> None:
    both, turned = made(service, ONE, OTHER), made(service, OTHER, ONE)
    alone = service.make(**QUICK)
    assert drawn(both) == drawn(turned)  # no mean depends on the order of two
    assert len({drawn(both), drawn(alone), drawn(made(service, OTHER))}) == 3
    assert both["input"]["file_urls"] == urls(service, ONE, OTHER)
    assert both["input"]["file_url"] == urls(service, ONE)[0]
    assert alone["input"]["file_urls"] is None
    assert [each["output"]["receipts"][0]["photos"] for each in (both, alone)] == [2, 1]


def test_one_of_several_photos_is_the_same_as_one_photo(service: Service) -> None:
    assert drawn(made(service, ONE)) == drawn(service.make(**QUICK))


@pytest.mark.parametrize("celery", [False, True])
@pytest.mark.parametrize(("bad", "error"), [(NOBODY, "Face Consistent Error"), ("missing.png", "Image URL Error")])
def test_the_photo_that_cannot_be_used_is_named(
    service: Service, bad: str, error: str, celery: bool, poll: Callable[..., Any]
) -> None:
    answer = service.post(file_url=..., file_urls=urls(service, ONE, bad, ONE), celery=celery, **QUICK)
    envelope = answer.json()
    if answer.status_code == 202:
        envelope = ended(service, envelope["task_id"], poll)
    else:
        assert answer.status_code == 422, answer.text
    assert (envelope["status"], envelope["error"], envelope["error_data"]["photo"]) == ("FAILED", error, 1)
    assert "photo" not in service.post(file_url=urls(service, bad)[0]).json()["error_data"]


def test_files_of_a_form_are_queued_and_all_deleted_in_the_end(service: Service, poll: Callable[..., Any]) -> None:
    photos = photo_files()
    form = [("file", ("a.png", photos[ONE])), ("file", ("b.png", photos[OTHER])), ("file", ("c.png", photos[ONE]))]
    data = {name: str(value) for name, value in QUICK.items()} | {"app_id": "face-avatar", "celery": "true"}
    answer = service.client.post("/getImageToImage", data=data, files=form)
    assert answer.status_code == 202, answer.text
    envelope = ended(service, answer.json()["task_id"], poll)
    assert envelope["status"] == "SUCCESS"
    assert envelope["output"]["receipts"][0]["photos"] == 3
    assert drawn(envelope) == drawn(made(service, ONE, OTHER, ONE))
    stored = [service.data_dir / FOLDER / key for key in photo_keys(envelope["task_id"], 3)]
    poll(lambda: not any(path.exists() for path in stored), ENDED_S)
    assert not list((service.data_dir / FOLDER / PHOTOS).glob(f"{envelope['task_id']}*"))


def test_photos_that_are_unlike_are_used_and_it_is_said(service: Service) -> None:
    photos = [*urls(service, ONE, ONE), data_url(drawn_man())]
    envelope = service.make(file_url=..., file_urls=photos, **QUICK)
    (warning,) = envelope["output"]["warnings"]
    assert (warning["code"], warning["photo"]) == ("different_people", 2)
    assert made(service, ONE, ONE)["output"]["warnings"] == []


def test_a_warning_about_a_file_says_which_one(service: Service) -> None:
    cut = data_url(jpeg()[:-600], "image/jpeg")  # 1.5% of it
    envelope = service.make(file_url=..., file_urls=[*urls(service, ONE), cut], **QUICK)
    assert [(warning["code"], warning["photo"]) for warning in envelope["output"]["warnings"]] == [("clipped", 1)]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.open(sample_photo()).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def test_the_likeness_is_to_the_face_of_all_photos(service: Service) -> None:
    """To the mean face and to one of its two photos a picture is not equally like."""
    both, alone = made(service, ONE, OTHER), service.make(**QUICK)
    assert both["output"]["face_similarity"] != alone["output"]["face_similarity"]
    assert all(similarity is not None for similarity in both["output"]["face_similarity"])


def test_a_repeat_with_its_key_is_the_same_task_and_with_another_photo_a_conflict(service: Service) -> None:
    headers = {"Idempotency-Key": "several photos"}
    body = {"app_id": "face-avatar", "file_urls": urls(service, ONE, OTHER), **QUICK}
    first, again = (service.client.post("/getImageToImage", json=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.json()["task_id"] == again.json()["task_id"]
    fewer = body | {"file_urls": urls(service, ONE)}
    assert service.client.post("/getImageToImage", json=fewer, headers=headers).status_code == 409


def test_a_preflight_stays_of_one_photo(service: Service) -> None:
    answer = service.client.post("/api/v1/faces", json={"file_urls": urls(service, ONE)})
    assert answer.status_code == 422
    assert [entry["field"] for entry in answer.json()["error_data"]["fields"]] == ["file_url", "file_urls"]


def ended(service: Service, task_id: str, poll: Callable[..., Any]) -> dict[str, Any]:
    """The envelope of a task once it is finished."""

    def envelope() -> dict[str, Any] | None:
        read: dict[str, Any] = service.client.get(f"/api/v1/tasks/{task_id}").json()
        return read if read["status"] not in ("PENDING", "STARTED") else None

    found: dict[str, Any] = poll(envelope, ENDED_S)
    return found
