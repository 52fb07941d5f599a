"""The contract over real HTTP, on a real local Serve, with the embedded models."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from deployments.types import Pixels
from serve_app.api.settings import BODY_BYTES
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.catalog.apps import DEFAULT_PROMPT
from serve_app.cli.root import cli
from serve_app.tasks.loaded_models import LoadedModels
from tests.support.envelopes import KEYS, QUICK, failure
from tests.support.photos import data_url, photo_files, png
from tests.support.service import MAX_IMAGES, Service
from tests.support.tolerance import assert_shows

# What works


def test_a_photo_becomes_a_batch_of_avatars(service: Service) -> None:
    answer = service.post(batch=3, width=320, height=400, ref_id="mine")
    envelope = answer.json()
    assert answer.status_code == 200, envelope
    assert envelope.keys() == KEYS
    assert (envelope["status"], envelope["error"], envelope["error_data"]) == ("SUCCESS", "", "")
    assert envelope["app_id"] == "face-avatar"
    assert envelope["input"]["ref_id"] == "mine"
    assert set(envelope["time_required"]["stages"]) == {"fetch", "face", "diffusion", "finish", "store"}
    output = envelope["output"]
    assert output["Has_NSFW_Content"] == [False] * 3
    first = envelope["input"]["seed"]
    assert output["seeds"] == [first, first + 1, first + 2]
    images = [service.pixels(url) for url in output["result"]]
    assert [image.shape for image in images] == [(400, 320, 3)] * 3
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.abs(images[one].astype(int) - images[other]).mean() > 1
    for url in output["low_res_urls"]:
        thumbnail = service.image(url)
        assert thumbnail.format == "WEBP"
        assert max(thumbnail.size) <= 256


def test_a_queued_request_can_be_followed_by_its_events(service: Service) -> None:
    accepted = service.post(celery=True, batch=2, priority="low", **QUICK).json()
    assert accepted["input"]["priority"] == "low"
    path = f"/api/v1/tasks/{accepted['task_id']}/events"
    with service.client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(answer.iter_text()).strip().split("\n\n")
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if "data: " in block]
    assert events[-1]["event"] == "finished"
    assert {event["event"] for event in events[:-1]} <= {"progress"}
    final = json.loads(events[-1]["data"])
    assert (final["status"], len(final["output"]["result"])) == ("SUCCESS", 2)
    assert service.image(final["output"]["result"][0]).size == (256, 256)
    again = service.client.get(path, headers={"Last-Event-ID": events[-1]["id"]})
    assert again.status_code == 204
    failure(service.client.get(path, headers={"Authorization": "Bearer other"}), 401, "Unauthorized")
    failure(service.client.get("/api/v1/tasks/unknown/events"), 404, "Unknown Task")


def test_pictures_become_clear_in_the_events_of_a_task_that_wants_previews(service: Service) -> None:
    accepted = service.post(celery=True, previews=True, **QUICK | {"num_inference_steps": 50}).json()
    assert accepted["input"]["previews"] is True
    with service.client.stream("GET", f"/api/v1/tasks/{accepted['task_id']}/events") as answer:
        blocks = "".join(answer.iter_text()).strip().split("\n\n")
    data = [line.removeprefix("data: ") for block in blocks for line in block.splitlines() if line.startswith("data: ")]
    *before, final = map(json.loads, data)
    seen = [envelope["output"]["progress"]["previews"] for envelope in before]
    assert all(len(pictures) == 1 for pictures in seen)
    pictures = [picture for (picture,) in seen if picture is not None]
    assert pictures, seen
    kind, _, picture = pictures[-1].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert len(picture) < 8000
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (64, 64)
    assert final["status"] == "SUCCESS"
    assert "data:image" not in json.dumps(final["output"])


def test_who_has_a_token_gets_the_secret_of_its_webhooks(service: Service) -> None:
    secret = service.client.get("/api/v1/webhook-secret").json()["output"]["webhook_secret"]
    assert secret.startswith("whsec_")
    failure(service.client.get("/api/v1/webhook-secret", headers={"Authorization": ""}), 401, "Unauthorized")


def test_what_the_client_leaves_out_takes_the_apps_own_value(service: Service) -> None:
    envelope = service.make()
    effective = envelope["input"]
    app = service.client.get("/api/v1/apps").json()["output"]["apps"][0]
    assert app["app_id"] == "face-avatar"
    assert app["defaults"].items() <= effective.items()
    assert "smiling" in app["vocabulary"]["expressions"]
    assert effective["prompt"] == DEFAULT_PROMPT.replace("{gender_word}", "person")
    assert effective["file_url"] == f"{service.photos}/astronaut.png"
    size = (app["defaults"]["width"], app["defaults"]["height"])
    assert service.image(envelope["output"]["result"][0]).size == size


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(service: Service) -> None:
    first, again, other = (service.make(seed=seed, **QUICK)["output"]["result"][0] for seed in (5, 5, 6))
    assert np.array_equal(service.pixels(first), service.pixels(again))
    assert not np.array_equal(service.pixels(first), service.pixels(other))


def test_image_i_of_a_batch_uses_seed_plus_i(service: Service) -> None:
    batch = service.make(seed=5, batch=2, **QUICK)["output"]["result"]
    alone = {seed: service.make(seed=seed, **QUICK)["output"]["result"][0] for seed in (5, 6, 7)}
    references = {str(seed): service.pixels(url) for seed, url in alone.items()}
    for index, url in enumerate(batch):
        assert_shows(service.pixels(url), str(5 + index), references)


def test_both_spellings_are_the_same_route(service: Service) -> None:
    body = {"app_id": "face-avatar", "image": f"{service.photos}/astronaut.png", "seed": 5, **QUICK}
    for path in ("/getImageToImage", "/getImagetoImage"):
        envelope = service.client.post(path, json=body).json()
        assert envelope["status"] == "SUCCESS", envelope


@pytest.mark.parametrize(
    ("fields", "prompt", "gender"),
    [
        ({"prompt": "None", "gender": "female"}, DEFAULT_PROMPT.replace("{gender_word}", "woman"), "woman"),
        ({"prompt": None, "gender": "boy"}, DEFAULT_PROMPT.replace("{gender_word}", "man"), "man"),
        (
            {"prompt": "", "gender": "space pirate"},
            DEFAULT_PROMPT.replace("{gender_word}", "space pirate"),
            "space pirate",
        ),
        ({"prompt": "a wizard " * 200}, "a wizard " * 200, "person"),
    ],
)
def test_the_prompt_is_the_clients_or_the_default_with_the_gender_word(
    service: Service, fields: dict[str, Any], prompt: str, gender: str
) -> None:
    effective = service.make(**fields, **QUICK)["input"]
    assert effective["prompt"] == prompt
    assert effective["gender"] == gender


def test_a_word_beyond_the_text_encoders_window_still_counts(service: Service) -> None:
    filler = "portrait of a person, " * 30
    red, blue = (
        service.make(prompt=f"{filler}, {colour} background", seed=3, **QUICK)["output"]["result"][0]
        for colour in ("red", "blue")
    )
    assert not np.array_equal(service.pixels(red), service.pixels(blue))


@pytest.mark.parametrize("prompt", ["\x00\x07 '; -- {}%s", "🧑‍🚀肖像" * 60, "<|startoftext|> <|endoftext|>", " "])
def test_an_odd_prompt_is_drawn_like_any_other(service: Service, prompt: str) -> None:
    assert service.make(prompt=prompt, **QUICK)["input"]["prompt"] == prompt


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_the_file_is_of_the_asked_format(service: Service, output_format: str, name: str) -> None:
    url = service.make(output_format=output_format, **QUICK)["output"]["result"][0]
    assert service.image(url).format == name
    assert service.client.get(url).headers["content-type"] == f"image/{output_format}"


def test_a_removed_background_is_transparent_and_the_figure_is_not(service: Service) -> None:
    url = service.make(remove_background=True, seed=1)["output"]["result"][0]
    alpha = service.pixels(url)[..., 3]
    assert alpha[:40, :40].max() == 0
    assert np.median(alpha[200:400, 200:312]) == 255


def test_a_background_colour_fills_what_was_cut_out(service: Service) -> None:
    url = service.make(remove_background=True, bg_color="#1Cf", seed=1)["output"]["result"][0]
    pixels = service.pixels(url)
    assert pixels.shape[2] == 3
    assert np.all(pixels[:40, :40] == (0x11, 0xCC, 0xFF))


def test_a_data_url_is_shown_by_its_type_and_size_only(service: Service) -> None:
    data = photo_files()["astronaut.png"]
    envelope = service.make(file_url=data_url(data), **QUICK)
    assert envelope["input"]["file_url"] == f"data:image/png ({len(data)} bytes)"


def test_the_query_of_a_photo_url_is_not_echoed(service: Service) -> None:
    envelope = service.make(file_url=f"{service.photos}/astronaut.png?key=secret", **QUICK)
    assert "secret" not in json.dumps(envelope)


def test_of_several_faces_the_largest_is_used(service: Service) -> None:
    assert service.make(file_url=f"{service.photos}/six.jpg", **QUICK)["status"] == "SUCCESS"


def test_faces_of_requests_in_flight_at_once_never_mix(service: Service) -> None:
    """Same seed and prompt for all: only the face tells the pictures apart."""
    names = ["astronaut.png", "hanks.png", "six.jpg"]

    def draw(name: str) -> Pixels:
        made = service.make(file_url=f"{service.photos}/{name}", seed=11, width=256, height=256)
        return service.pixels(made["output"]["result"][0])

    alone = {name: draw(name) for name in names}
    with ThreadPoolExecutor(len(names) * 2) as pool:
        together = list(pool.map(lambda name: (name, draw(name)), names * 2))
    for name, drawn in together:
        assert_shows(drawn, name, alone)


# What the client gets wrong


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "wrong", "Bearer ünïcode"], ids=repr
)
def test_without_the_token_nothing_is_made(service: Service, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    answer = httpx.post(f"{service.url}/getImageToImage", json={}, headers=headers)
    failure(answer, 401, "Unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_token_does_what_it_was_made_for_and_no_more_until_it_is_revoked(
    service: Service, poll: Callable[..., Any]
) -> None:
    def operator(*command: str) -> str:
        result = CliRunner().invoke(cli, ["token", *command, "--data-dir", str(service.data_dir)])
        assert result.exit_code == 0, result.output
        return result.output.strip()

    def bearer(*options: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {operator('create', *options)}"}

    maker = bearer("maker", "--rate", "2", "--images", "1")
    reader = bearer("reader", "--scope", "read", "--shares", "maker")
    body = {"app_id": "face-avatar", "file_url": f"{service.photos}/astronaut.png", **QUICK}

    def create(headers: dict[str, str], **fields: Any) -> httpx.Response:
        return service.client.post("/getImageToImage", json=body | fields, headers=headers)

    made = create(maker)
    assert made.status_code == 200, made.text
    assert (made.headers["ratelimit-limit"], made.headers["ratelimit-remaining"]) == ("2", "1")
    task = f"/api/v1/tasks/{made.json()['task_id']}"
    failure(create(maker, batch=2), 403, "Forbidden")
    refused = create(maker)
    assert failure(refused, 429, "Rate Limit")["retry_after_s"] == int(refused.headers["retry-after"]) > 0
    assert service.client.get(task, headers=maker).status_code == 200  # reading has a budget of its own

    assert service.client.get(task, headers=reader).json()["status"] == "SUCCESS"  # whose tasks it shares
    assert failure(create(reader), 403, "Forbidden")["rights"] == ["read"]
    failure(service.client.delete(task, headers=reader), 403, "Forbidden")
    failure(service.client.get("/api/v1/webhook-secret", headers=reader), 403, "Forbidden")
    assert service.client.get("/api/v1/webhook-secret", headers=maker).status_code == 200
    failure(service.client.get(task), 404, "Unknown Task")  # another's

    def used() -> dict[str, Any]:
        (listed,) = (each for each in json.loads(operator("list", "--json")) if each["name"] == "maker")
        today: dict[str, Any] = listed["today"]
        return today

    poll(lambda: used()["images"])
    assert (used()["requests"], used()["refused"]) == (3, 1)

    operator("revoke", "reader")
    poll(lambda: service.client.get(task, headers=reader).status_code == 401)
    operator("revoke", "maker")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/api/v1/apps", "/healthz", "/nowhere", "/-/routes"])
def test_every_answer_has_headers_that_browsers_obey(service: Service, path: str) -> None:
    headers = service.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    if headers["content-type"].startswith("application/json"):
        assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_authentication_comes_before_the_body(service: Service) -> None:
    answer = httpx.post(f"{service.url}/getImageToImage", content=b"{" + bytes(17 * 1024 * 1024))
    failure(answer, 401, "Unauthorized")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Request-Timeout-Seconds", b"0.001"),
        ("X-Request-Timeout-Seconds", b"\xff"),
        ("X-Request-Id", b"\xff\xfe"),
        ("X-Request-Id", b"x" * 5000),
        ("serve_multiplexed_model_id", b"\xff"),
        ("X-Request-Disconnect-Disabled", b"?1"),
    ],
)
def test_headers_that_would_steer_the_proxy_do_nothing(service: Service, name: str, value: bytes) -> None:
    answer = service.client.get("/api/v1/apps", headers={name: value})
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == KEYS
    assert 1 <= len(answer.headers["x-request-id"]) <= 128


def test_a_clients_own_request_id_is_kept(service: Service) -> None:
    assert service.client.get("/healthz", headers={"X-Request-Id": "mine-7"}).headers["x-request-id"] == "mine-7"


def test_an_unknown_route_or_method_is_answered_in_the_envelope(service: Service) -> None:
    failure(service.client.get("/nothing/here"), 404, "Not Found")
    failure(service.client.get("/getImageToImage/"), 404, "Not Found")
    answer = service.client.get("/getImageToImage")
    failure(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == "POST"
    assert service.client.put("/api/v1/tasks/unknown").headers["allow"] == "DELETE, GET"


def test_a_body_that_is_too_large_is_refused(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    body = b" " * (BODY_BYTES + 1)
    failure(service.client.post("/getImageToImage", content=body, headers=headers), 413, "Request Too Large")
    chunks = (b" " * 1024 * 1024 for _ in range(BODY_BYTES // 1024**2 + 1))  # no Content-Length to go by
    failure(service.client.post("/getImageToImage", content=chunks, headers=headers), 413, "Request Too Large")


def said_to(service: Service, *parts: bytes) -> bytes:
    """All that the service says to these bytes, until it closes the connection."""
    url = urlsplit(service.url)
    said = b""
    with socket.create_connection((url.hostname, url.port), 60) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(ConnectionError):
            while received := connection.recv(65536):
                said += received
    return said


def proxy_process() -> psutil.Process:
    """Serve's proxy, which belongs to a cluster that this process has started."""
    processes = psutil.Process().children(recursive=True)
    return next(process for process in processes if "ProxyActor" in " ".join(process.cmdline()))


def test_the_proxy_refuses_a_head_that_is_too_large(service: Service) -> None:
    proxy = proxy_process()
    before = proxy.memory_info().rss
    said = said_to(service, b"GET /healthz HTTP/1.1\r\n", *[b"name: value\r\n" * 1000] * 2000)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"x-request-id: " in head
    assert (json.loads(body).keys(), json.loads(body)["error"]) == (KEYS, "Request Too Large")
    assert proxy.memory_info().rss - before < 20_000_000  # without the limit it was 493 MB
    assert httpx.get(f"{service.url}/healthz").status_code == 200


def test_an_endless_body_ends_the_events_that_did_not_ask_for_it(service: Service) -> None:
    task_id = service.post(celery=True, batch=MAX_IMAGES, num_inference_steps=50).json()["task_id"]
    head = (
        f"GET /api/v1/tasks/{task_id}/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: {service.client.headers['authorization']}\r\n\r\n"
    )
    said = said_to(service, head.encode(), *[b"2710\r\n" + b"x" * 10_000 + b"\r\n"] * 2000)
    assert b"event: finished" not in said  # it ended before the task did
    assert service.client.delete(f"/api/v1/tasks/{task_id}").json()["status"] == "CANCELLED"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/mixed", ""])
def test_only_json_and_multipart_forms_are_taken(service: Service, kind: str) -> None:
    answer = service.client.post("/getImageToImage", content=b"{}", headers={"Content-Type": kind})
    failure(answer, 415, "Unsupported Media Type")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b'"text"', b"null", b"7", b'{"app_id": NaN}', b"\xff\xfe", b"[" * 100_000, b"{}"],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_request_is_refused(service: Service, body: bytes) -> None:
    answer = service.client.post("/getImageToImage", content=body, headers={"Content-Type": "application/json"})
    assert failure(answer, 422, "Invalid Request")["fields"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("app_id", ...),
        ("app_id", 7),
        ("file_url", ...),
        ("file_url", None),
        ("file_url", ""),
        ("batch", 0),
        ("batch", 9),
        ("batch", True),
        ("batch", "2"),
        ("batch", 1.5),
        ("batch", 10**400),
        ("height", 255),
        ("height", 1537),
        ("width", "512"),
        ("num_inference_steps", 0),
        ("num_inference_steps", 51),
        ("ip_adapter_scale", 1.01),
        ("ip_adapter_scale", -0.01),
        ("guidance_scale", 0.99),
        ("guidance_scale", 30.01),
        ("guidance_scale", False),
        ("guidance_scale", "7.5"),
        ("remove_background", 1),
        ("remove_background", "true"),
        ("bg_color", "red"),
        ("bg_color", "#12345"),
        ("bg_color", "#GGGGGG"),
        ("gender", "x" * 33),
        ("gender", "man; drop"),
        ("gender", "{gender_word}"),
        ("prompt", "x" * 2001),
        ("prompt", ["a"]),
        ("negative_prompt", "x" * 2001),
        ("seed", -1),
        ("seed", 2**32 - 8),
        ("output_format", "gif"),
        ("ref_id", 5),
        ("celery", "false"),
        ("priority", "high"),
        ("webhook_url", "ftp://example.org"),
        ("webhook_url", "https://ann:secret@example.org/hook"),
        ("webhook_url", "x" * 2049),
        ("consent", "yes"),
        ("heigth", 512),
    ],
)
def test_a_wrong_field_is_named(service: Service, field: str, value: Any) -> None:
    fields = failure(service.post(**{field: value}), 422, "Invalid Request")["fields"]
    assert [entry["field"] for entry in fields] == [field]
    assert fields[0]["message"]


def test_every_wrong_field_has_its_entry(service: Service) -> None:
    fields = failure(service.post(batch=0, seed="x", nonsense=1), 422, "Invalid Request")["fields"]
    assert {entry["field"] for entry in fields} == {"batch", "seed", "nonsense"}


def test_a_body_of_countless_fields_gets_a_short_answer(service: Service) -> None:
    answer = service.post(**{f"field{number}": 1 for number in range(50_000)})
    assert failure(answer, 422, "Invalid Request")["fields"][0]["field"] == "body"
    assert len(answer.content) < 2000
    answer = service.post(**{"k" * 200_000: 1})
    assert failure(answer, 422, "Invalid Request")["fields"][0]["field"] == "k" * 64
    assert len(answer.content) < 5000


def test_transparency_and_jpeg_do_not_go_together(service: Service) -> None:
    data = failure(service.post(output_format="jpeg", remove_background=True), 422, "Invalid Request")
    assert data["fields"][0]["field"] == "output_format"
    assert service.make(output_format="jpeg", remove_background=True, bg_color="#fff", **QUICK)["status"] == "SUCCESS"


def test_an_alias_must_agree_with_its_name(service: Service) -> None:
    data = failure(service.post(image="https://example.org/other.jpg"), 422, "Invalid Request")
    assert data["fields"][0]["field"] == "image"


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_has_a_length(service: Service, key: str) -> None:
    answer = service.client.post("/getImageToImage", json={}, headers={"Idempotency-Key": key})
    assert failure(answer, 422, "Invalid Request")["fields"][0]["field"] == "Idempotency-Key"


def test_an_unknown_app_is_told_which_there_are(service: Service) -> None:
    assert failure(service.post(app_id="nobody"), 404, "Unknown App")["accepted"] == ["face-avatar"]


@pytest.mark.parametrize(
    "url",
    [
        "{photos}/text.png",
        "{photos}/broken.png",
        "{photos}/huge.png",
        "{photos}/large.png",
        "{photos}/slow.png",
        "{photos}/absent.png",
        "{photos}/loop",
        "http://127.0.0.1:9/refused.png",
        "ftp://example.org/me.jpg",
        "file:///etc/passwd",
        "https://user:secret@example.org/me.jpg",
        "http://no.such.host.invalid/me.jpg",
        "//127.0.0.1/",
        "http://",
        "me.jpg",
        "data:image/png;base64,%%%%",
        "data:image/png;base64,",
        "data:text/plain;base64,aGVsbG8=",
        data_url(b"not a picture"),
    ],
)
def test_a_photo_that_cannot_be_had_is_the_clients_error(service: Service, url: str) -> None:
    data = failure(service.post(file_url=url.format(photos=service.photos)), 422, "Image URL Error")
    assert "secret" not in json.dumps(data)


@pytest.mark.parametrize("photo", ["cat", "grey", "tiny"])
def test_a_photo_without_a_usable_face_is_refused(service: Service, photo: str) -> None:
    grey = np.full((300, 300, 3), 128, np.uint8)
    small = np.asarray(service.image(f"{service.photos}/astronaut.png").resize((72, 72)))
    tiny = grey.copy()
    tiny[100:172, 100:172] = small
    data = {"cat": photo_files()["cat.png"], "grey": png(grey), "tiny": png(tiny)}[photo]
    failure(service.post(file_url=data_url(data)), 422, "Face Consistent Error")


def test_what_passes_its_deadline_is_a_timeout(service: Service) -> None:
    failure(service.post(deadline_s=0.2, num_inference_steps=50, batch=8), 504, "Timeout")


def test_the_deadline_covers_the_fetch_of_the_photo(service: Service) -> None:
    failure(service.post(file_url=f"{service.photos}/slow.png", deadline_s=0.3), 504, "Timeout")


def test_what_has_not_begun_by_its_start_deadline_is_a_timeout_and_draws_nothing(service: Service) -> None:
    late = service.post(start_deadline_s=0.001, num_inference_steps=50, batch=8)
    assert failure(late, 504, "Timeout")["message"] == "Not begun within 0.001 s."
    queued = service.post(start_deadline_s=0.3, celery=True, file_url=f"{service.photos}/slow.png")
    failure(queued, 504, "Timeout")
    assert service.make(start_deadline_s=60, **QUICK)["input"]["start_deadline_s"] == 60
    (problem,) = failure(service.post(start_deadline_s=9, deadline_s=5), 422, "Invalid Request")["fields"]
    assert (problem["field"], problem["accepted"]) == ("start_deadline_s", {"maximum": 5.0})


def test_the_generators_tell_which_models_they_have_in_memory(service: Service, poll: Callable[..., Any]) -> None:
    async def load_s() -> list[float]:
        redis = connect(BrokerSettings(), service.data_dir)
        try:
            return await LoadedModels(redis).load_s(["embedded", "absent"], usual_s=99)
        finally:
            await redis.aclose()

    poll(lambda: asyncio.run(load_s()) == [0, 99])


def test_an_app_to_fall_back_on_has_to_be_there(service: Service) -> None:
    data = failure(service.post(fallback_app_id="nobody"), 404, "Unknown App")
    assert (data["fallback_app_id"], data["accepted"]) == ("nobody", ["face-avatar"])
    assert service.make(fallback_app_id="none", **QUICK)["input"]["fallback_app_id"] is None


def test_more_than_the_service_takes_on_is_told_when_to_come_back(service: Service) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: service.post(batch=MAX_IMAGES, **QUICK), range(3)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= 2
    for answer in refused:
        failure(answer, 503, "Overloaded")
        assert answer.headers["retry-after"] == "3"
    assert service.make(**QUICK)["status"] == "SUCCESS"


# Files, status, documents


def test_a_result_needs_its_signature_but_no_token(service: Service) -> None:
    url = service.make(**QUICK)["output"]["result"][0]
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.head(url).status_code == 200
    parts = urlsplit(url)
    failure(httpx.get(url.partition("?")[0]), 403, "Forbidden")
    failure(httpx.get(url.replace("signature=", "signature=0")), 403, "Forbidden")
    failure(httpx.get(url.replace("expires=", "expires=9")), 403, "Forbidden")
    failure(httpx.get(url.replace("expires=", "expires=x")), 403, "Forbidden")
    failure(httpx.get(url.replace("/0.png", "/1.png")), 403, "Forbidden")
    assert parts.path.startswith("/files/")


@pytest.mark.parametrize("key", ["", "nothing", "../token", "%2e%2e/token", "..%2f..%2ftoken", "a/b/c", "0.png"])
def test_what_is_no_result_is_not_found(service: Service, key: str) -> None:
    failure(service.client.get(f"/files/{key}?expires=9999999999&signature=0"), 404, "Not Found")


def test_health_readiness_and_the_stages_are_told_to_anybody(service: Service) -> None:
    assert httpx.get(f"{service.url}/healthz").json()["output"] == {"healthy": True}
    assert httpx.head(f"{service.url}/healthz").status_code == 200
    ready = httpx.get(f"{service.url}/readyz").json()["output"]
    assert ready["ready"] is True
    stages = {"AvatarIngress", "AvatarWorker", "FaceEmbedder", "AvatarGenerator", "BackgroundRemover", "EmbeddedValkey"}
    assert set(ready["stages"]) == stages


def test_the_docs_load_nothing_from_other_hosts(service: Service) -> None:
    page = httpx.get(f"{service.url}/docs")
    assert page.status_code == 200
    assert "//" not in page.text.replace(service.url, "").replace("// ", "")
    openapi = httpx.get(f"{service.url}/openapi.json").json()
    body = openapi["paths"]["/getImageToImage"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"app_id", "file_url", "bg_color", "guidance_scale"} <= body["properties"].keys()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [
        "app_id",
        "file_url",
        "file_urls",
        "image",
        "prompt",
        "gender",
        "batch",
        "height",
        "bg_color",
        "seed",
        "refID",
        "celery",
        "zzz",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(FIELDS, JSON, min_size=1, max_size=4))
def test_nothing_that_a_client_sends_is_a_server_error(service: Service, changes: dict[str, Any]) -> None:
    body = {"app_id": "face-avatar", "file_url": "ftp://refused", **changes}
    answer = service.client.post("/getImageToImage", json=body)
    assert answer.status_code in (404, 422), answer.text
    assert answer.json().keys() == KEYS


def test_time_spent_is_reported(service: Service) -> None:
    started = time.perf_counter()
    required = service.make(**QUICK)["time_required"]
    assert 0 < required["runtime"] <= time.perf_counter() - started
    assert required["startup_time"] == 0
    assert 0 < required["stages"]["diffusion"] < required["runtime"]


@pytest.mark.parametrize(
    ("width", "height"),
    [
        pytest.param(1536, 256, marks=pytest.mark.slow),
        (256, 1536),
        pytest.param(900, 300, marks=pytest.mark.slow),
    ],
)
def test_an_avatar_of_an_extreme_shape_shows_the_whole_face_and_its_receipt_gives_the_same_pixels(
    service: Service, width: int, height: int
) -> None:
    fields = {**QUICK, "num_inference_steps": 12, "width": width, "height": height, "seed": 5}
    made = service.make(**fields)["output"]
    picture = service.pixels(made["result"][0])
    assert picture.shape[:2] == (height, width)
    faces = service.client.post("/api/v1/faces", files={"file": png(picture)}).json()["output"]["faces"]
    left, top, right, bottom = faces[0]["box"]
    assert 0 < left < right < width
    assert 0 < top < bottom < height
    again = service.make(**fields)["output"]
    assert again["receipts"] == made["receipts"]
    assert np.array_equal(service.pixels(again["result"][0]), picture)
