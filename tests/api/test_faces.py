"""The pre-flight, and forms in place of JSON: over real HTTP, on a real local Serve."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageFilter

from deployments.face.detection import Detection
from deployments.face.quality import inspected, sharpness
from loadtest.bench.photos.heic import TILE
from serve_app.photos.sample import sample_photo
from tests.support.envelopes import KEYS, QUICK, failure
from tests.support.hostile_pictures import encoded
from tests.support.photos import data_url, photo_files, png
from tests.support.polling import poll
from tests.support.service import Service

FACES = "/api/v1/faces"
PHOTO = ("me.png", sample_photo().read_bytes(), "image/png")


def seen(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    envelope = answer.json()
    assert envelope.keys() == KEYS
    assert (envelope["status"], envelope["task_id"]) == ("SUCCESS", "")
    output: dict[str, Any] = envelope["output"]
    return output


def done(service: Service, task_id: str) -> dict[str, Any] | None:
    """The envelope of a task that succeeded; None while it is unfinished."""
    envelope: dict[str, Any] = service.client.get(f"/api/v1/tasks/{task_id}").json()
    assert envelope["status"] in ("PENDING", "STARTED", "SUCCESS"), envelope
    return envelope if envelope["status"] == "SUCCESS" else None


# What a photo shows


def test_the_largest_face_comes_first_and_is_the_one_that_is_used(service: Service) -> None:
    answer = service.client.post(FACES, json={"file_url": f"{service.photos}/six.jpg"})
    output = seen(answer)
    sides = [face["box"][2] - face["box"][0] for face in output["faces"]]
    assert len(sides) > 1
    assert sides == sorted(sides, reverse=True)
    assert (output["used"], output["accepted"], output["reason"], output["message"]) == (0, True, None, "")
    envelope = answer.json()
    assert envelope["input"] == {"file_url": f"{service.photos}/six.jpg"}
    assert set(envelope["time_required"]["stages"]) == {"fetch", "face"}


def test_boxes_are_in_pixels_of_the_upright_photo_as_the_service_sees_it(service: Service) -> None:
    upright = Image.open(sample_photo()).resize((2048, 2048))
    sideways = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    upright.crop((0, 0, 2048, 1536)).rotate(90, expand=True).save(sideways, "JPEG", exif=exif)
    output = seen(service.client.post(FACES, files={"file": sideways.getvalue()}))
    assert (output["width"], output["height"]) == (1536, 1152)
    left, top, right, bottom = output["faces"][0]["box"]
    small = seen(service.client.post(FACES, files={"file": PHOTO}))["faces"][0]["box"]
    scale = 1536 / 512
    assert (left + right) / 2 == pytest.approx(scale * (small[0] + small[2]) / 2, abs=60)
    assert (top + bottom) / 2 == pytest.approx(scale * (small[1] + small[3]) / 2, abs=60)


@pytest.mark.parametrize("file", ["cat", "far"])
def test_what_would_be_refused_is_said_with_a_reason(service: Service, file: str) -> None:
    if file == "cat":
        photo, reason = photo_files()["cat.png"], "no_face"
    else:
        canvas = Image.new("RGB", (300, 300), "gray")
        canvas.paste(Image.open(sample_photo()).convert("RGB").resize((160, 160)), (70, 70))
        photo, reason = png(np.asarray(canvas)), "face_too_small"
    output = seen(service.client.post(FACES, files={"file": photo}))
    assert (output["accepted"], output["used"], output["reason"]) == (False, None, reason)
    assert output["message"].endswith(".")
    refused = service.post(file_url=data_url(photo), **QUICK)
    failure(refused, 422, "Face Consistent Error")


def test_a_blurred_face_is_less_sharp_than_a_sharp_one() -> None:
    photo = Image.open(sample_photo()).convert("RGB")
    box = (170.0, 65.0, 277.0, 172.0)
    sharp = sharpness(np.asarray(photo), box)
    blurred = sharpness(np.asarray(photo.filter(ImageFilter.GaussianBlur(3))), box)
    assert blurred < 5 < 10 < sharp


def test_a_photo_that_lost_its_end_is_used_and_said_to_have(service: Service) -> None:
    whole = encoded(Image.open(sample_photo()).convert("RGB"), "JPEG", quality=90)
    url = data_url(whole[: int(len(whole) * 0.98)], "image/jpeg")
    preflight = seen(service.client.post(FACES, json={"file_url": url}))
    assert preflight["accepted"]
    (warning,) = preflight["warnings"]
    assert (warning["code"], warning["photo"]) == ("clipped", 0)
    assert service.make(file_url=url, **QUICK)["output"]["warnings"] == [warning]
    task_id = service.post(file_url=url, celery=True, **QUICK).json()["task_id"]
    assert poll(lambda: done(service, task_id))["output"]["warnings"] == [warning]


def test_an_answer_warns_of_the_light_as_the_preflight_does(service: Service) -> None:
    dark = encoded(Image.open(sample_photo()).convert("RGB").point(lambda level: level * 0.3), "PNG")
    preflight = seen(service.client.post(FACES, files={"file": dark}))["warnings"]
    assert [(warning["code"], warning["photo"]) for warning in preflight] == [("too_dark", 0)]
    url = data_url(dark)
    made = service.make(file_url=f"{service.photos}/astronaut.png", **QUICK)
    assert made["output"]["warnings"] == []
    assert service.make(file_url=url, **QUICK)["output"]["warnings"] == preflight
    both = service.make(file_url=..., file_urls=[data_url(PHOTO[1]), url], **QUICK)["output"]["warnings"]
    assert both == [{**preflight[0], "photo": 1}]


@pytest.mark.parametrize(
    ("photo", "codes"),
    [
        (PHOTO[1], []),
        (photo_files()["six.jpg"], ["several_faces"]),
        (
            encoded(Image.open(sample_photo()).convert("RGB").filter(ImageFilter.GaussianBlur(3)), "PNG"),
            ["blurred"],
        ),
        (encoded(Image.open(sample_photo()).convert("L"), "PNG"), ["monochrome"]),
        (photo_files()["cat.png"], []),  # its refusal says what is wrong
    ],
)
def test_what_to_know_about_the_faces_is_a_warning(service: Service, photo: bytes, codes: list[str]) -> None:
    warnings = seen(service.client.post(FACES, files={"file": photo}))["warnings"]
    assert [warning["code"] for warning in warnings] == codes
    assert all(warning["message"].endswith(".") for warning in warnings)


def test_a_heic_photo_makes_the_avatar(service: Service) -> None:
    heic = ("me.heic", TILE.read_bytes(), "image/heic")
    assert seen(service.client.post(FACES, files={"file": heic}))["accepted"]
    answer = form(service, files={"file": heic}, **{name: str(value) for name, value in QUICK.items()})
    assert answer.json()["status"] == "SUCCESS"


def test_a_box_that_leaves_the_photo_has_a_sharpness_as_far_as_it_is_seen() -> None:
    pixels = np.asarray(Image.open(sample_photo()).convert("RGB"))
    partly, beside = Detection((-40, -40, 60, 60), 0.9), Detection((600, 600, 700, 700), 0.9)
    faces = inspected(pixels, [partly, beside], 48).faces
    assert [face.sharpness > 0 for face in faces] == [True, False]


@pytest.mark.parametrize(
    ("name", "reason"), [("text.png", "not_an_image"), ("broken.png", "broken"), ("loop", "redirects")]
)
def test_a_bad_photo_is_refused_as_it_is_by_a_request(service: Service, name: str, reason: str) -> None:
    url = f"{service.photos}/{name}"
    answers = [service.client.post(FACES, json={"file_url": url}), service.post(file_url=url)]
    assert [failure(answer, 422, "Image URL Error")["reason"] for answer in answers] == [reason, reason]


def test_the_preflight_knows_the_alias_and_no_other_fields(service: Service) -> None:
    assert seen(service.client.post(FACES, json={"image": f"{service.photos}/astronaut.png"}))["accepted"]
    refused = service.client.post(FACES, json={"file_url": data_url(PHOTO[1]), "batch": 2})
    assert [entry["field"] for entry in failure(refused, 422, "Invalid Request")["fields"]] == ["batch"]


def test_the_preflight_asks_for_the_token(service: Service) -> None:
    failure(service.client.post(FACES, json={}, headers={"Authorization": ""}), 401, "Unauthorized")


# Forms


def form(service: Service, files: Any = None, **fields: str) -> httpx.Response:
    fields = {"app_id": "face-avatar", **fields}
    return service.client.post("/getImageToImage", data=fields, files={"file": PHOTO} if files is None else files)


def test_a_form_makes_the_same_avatar_as_json(service: Service) -> None:
    quick = {name: str(value) for name, value in QUICK.items()}
    answer = form(service, seed="5", remove_background="true", guidance_scale="2.5", refID="12", prompt="", **quick)
    assert answer.status_code == 200, answer.text
    envelope = answer.json()
    same = service.make(
        file_url=data_url(PHOTO[1]), seed=5, remove_background=True, guidance_scale=2.5, ref_id="12", **QUICK
    )
    assert envelope["input"] == same["input"]
    assert envelope["input"]["file_url"] == f"data:image/png ({len(PHOTO[1])} bytes)"
    assert np.array_equal(*(service.pixels(made["output"]["result"][0]) for made in (envelope, same)))


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"batch": "two"}, "batch"),
        ({"batch": "true"}, "batch"),
        ({"batch": "1.5"}, "batch"),
        ({"guidance_scale": "NaN"}, "guidance_scale"),
        ({"remove_background": "maybe"}, "remove_background"),
        ({"celery": "2"}, "celery"),
        ({"sharpen": "1"}, "sharpen"),
        ({"file_url": "https://example.org/me.jpg"}, "file"),
    ],
)
def test_a_field_of_a_form_is_as_strict_as_in_json(service: Service, fields: dict[str, str], wrong: str) -> None:
    problems = failure(form(service, **fields), 422, "Invalid Request")["fields"]
    assert [problem["field"] for problem in problems] == [wrong]
    assert problems[0]["message"]


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ([("file", PHOTO)] * 5, "file"),
        ([("photo", PHOTO)], "file"),
        ([("other", (None, "text"))], "other"),
        ([("file", (None, "text"))], "file"),
        ([("file", PHOTO), ("batch", (None, "2")), ("batch", (None, "3"))], "batch"),
        ([(f"field{number}", (None, "1")) for number in range(70)], "body"),
    ],
)
def test_a_form_with_other_parts_is_refused(service: Service, files: Any, wrong: str) -> None:
    problems = failure(form(service, files=files), 422, "Invalid Request")["fields"]
    assert wrong in [problem["field"] for problem in problems]


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_is_none_is_refused(service: Service, kind: str) -> None:
    answer = service.client.post("/getImageToImage", content=b"\x00" * 1000, headers={"Content-Type": kind})
    failure(answer, 422, "Invalid Request")


def test_a_file_that_is_no_picture_is_told_so(service: Service) -> None:
    text = ("me.png", b"no picture", "image/png")
    assert failure(form(service, files={"file": text}), 422, "Image URL Error")["reason"] == "not_an_image"
    large = ("me.png", bytes(31 * 1024 * 1024), "image/png")
    assert failure(form(service, files={"file": large}), 422, "Image URL Error")["reason"] == "too_large"
    huge = ("me.png", bytes(45 * 1024 * 1024), "image/png")
    failure(form(service, files={"file": huge}), 413, "Request Too Large")


def test_a_status_is_not_asked_for_with_a_form(service: Service) -> None:
    refused = service.client.post("/getImage", data={"id": "x"}, files={"file": PHOTO})
    assert failure(refused, 415, "Unsupported Media Type")["accepted"] == "application/json"
