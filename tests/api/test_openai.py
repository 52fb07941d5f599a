"""OpenAI's images API, driven by its official client on a real local Serve."""

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent
from PIL import Image
from pydantic import ValidationError

from serve_app.api.openai.requests import PHOTO, REFUSED, ImageEditRequest
from serve_app.api.openai_errors import error_body, rate_limit_headers
from serve_app.api.proxy_errors import proxy_error
from serve_app.photos.sample import sample_photo
from serve_app.photos.source import PhotoSource
from tests.support.photos import data_url, photo_files
from tests.support.service import Service

MODEL = "face-avatar"
JPEG = b"\xff\xd8\xff\xe0 a photo"


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=token(service), max_retries=0) as made:
        yield made


def token(service: Service) -> str:
    return service.client.headers["Authorization"].removeprefix("Bearer ")


def picture(image: Any) -> Image.Image:
    assert image.b64_json is not None
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


# The official client


def test_an_edit_gives_the_avatars_of_the_photo(client: openai.OpenAI, service: Service) -> None:
    with sample_photo().open("rb") as photo:
        answer = client.images.edit(
            image=photo, prompt="", model=MODEL, n=2, size="256x256", user="mine", extra_body={"seed": 7}
        )
    assert answer.data is not None
    assert (answer.background, answer.output_format, answer.size) == ("opaque", "png", "256x256")
    made = service.make(file_url=data_url(sample_photo().read_bytes()), width=256, height=256, batch=2, seed=7)
    for image, url in zip(answer.data, made["output"]["result"], strict=True):
        ours = np.asarray(picture(image), np.int16)
        assert ours.shape == (256, 256, 3)
        assert np.abs(ours - service.pixels(url)).max() <= 16  # the same but for the roundings of bfloat16


def test_the_asynchronous_client_gets_a_link_to_a_transparent_picture(service: Service) -> None:
    async def edited() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=token(service), max_retries=0) as client:
            return await client.images.edit(
                image=[("me.png", sample_photo().read_bytes())],
                prompt="None",
                size="256x256",
                background="transparent",
                output_format="webp",
                response_format="url",
            )

    answer = asyncio.run(edited())
    (image,) = answer.data
    assert image.b64_json is None
    assert service.image(image.url).mode == "RGBA"
    assert (answer.background, answer.output_format) == ("transparent", "webp")


def test_several_photos_of_one_person_make_one_face(client: openai.OpenAI, service: Service) -> None:
    photos = photo_files()
    both = [("a.png", photos["astronaut.png"]), ("b.png", photos["hanks.png"])]
    answer = client.images.edit(image=both, prompt="", size="256x256", extra_body={"seed": 7})
    assert answer.data is not None
    urls = [data_url(photo) for _, photo in both]
    made = service.make(file_url=..., file_urls=urls, width=256, height=256, seed=7)
    ours = np.asarray(picture(answer.data[0]), np.int16)
    assert np.abs(ours - service.pixels(made["output"]["result"][0])).max() <= 16
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.edit(image=[*both, ("c.png", photos["cat.png"])], prompt="")
    assert (refused.value.code, refused.value.param) == ("face_consistent_error", "image[2]")
    with pytest.raises(openai.UnprocessableEntityError, match="more than 4 photos"):
        client.images.edit(image=both * 3, prompt="")


def require_streamed(events: list[Any], partial_images: int, output_format: str = "webp") -> None:
    """Typed events of an edit: partial images, then the avatar."""
    *partial, completed = events
    assert all(isinstance(event, ImageEditPartialImageEvent) for event in partial)
    assert isinstance(completed, ImageEditCompletedEvent)
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert len(partial) <= partial_images
    assert all(picture(event).size == (64, 64) for event in partial)
    assert picture(completed).size == (256, 256)
    looks = {(event.size, event.output_format, event.background) for event in events}
    assert looks == {("256x256", output_format, "opaque")}
    assert {event.quality for event in events} == {"auto"}
    assert completed.usage.output_tokens == completed.usage.total_tokens == 16 * 16


STREAMED: dict[str, Any] = {
    "prompt": "", "size": "256x256", "output_format": "webp", "stream": True, "partial_images": 2,
}  # fmt: skip


def test_a_streamed_edit_shows_the_avatar_becoming_clear(client: openai.OpenAI, poll: Callable[..., Any]) -> None:
    def streamed() -> list[Any]:
        with sample_photo().open("rb") as photo, client.images.edit(image=photo, **STREAMED) as stream:
            events = list(stream)
        require_streamed(events, partial_images=2)
        return events[:-1]

    poll(streamed)  # an image may be done before its first preview is due


def test_the_asynchronous_client_streams_too_and_what_it_gets_is_what_an_answer_has(service: Service) -> None:
    async def streamed() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=token(service), max_retries=0) as client:
            photo = sample_photo().read_bytes()
            asked = STREAMED | {"output_format": "png"}  # without loss
            stream = await client.images.edit(image=photo, **asked, extra_body={"seed": 7})
            return [event async for event in stream]

    events = asyncio.run(streamed())
    require_streamed(events, partial_images=2, output_format="png")
    made = service.make(file_url=data_url(sample_photo().read_bytes()), width=256, height=256, seed=7)
    ours = np.asarray(picture(events[-1]), np.int16)
    assert np.abs(ours - service.pixels(made["output"]["result"][0])).max() <= 16


def test_a_streamed_edit_that_fails_before_its_first_event_has_its_own_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.edit(image=photo_files()["cat.png"], prompt="", stream=True, partial_images=1)
    assert refused.value.code == "face_consistent_error"


def test_the_models_are_the_apps(client: openai.OpenAI, service: Service) -> None:
    apps = service.client.get("/api/v1/apps").json()["output"]["apps"]
    assert [model.id for model in client.models.list()] == [app["app_id"] for app in apps]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no model absent"):
        client.models.retrieve("absent")


def test_a_wrong_token_is_an_authentication_error(service: Service) -> None:
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.type == "authentication_error"
    assert refused.value.code == "unauthorized"


def test_a_parameter_without_meaning_here_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.edit(image=sample_photo().read_bytes(), prompt="", stream=True, n=2)
    assert refused.value.param == "n"
    assert "which image" in refused.value.message
    with pytest.raises(openai.UnprocessableEntityError, match="whole picture") as refused:
        client.images.edit(image=sample_photo().read_bytes(), prompt="", extra_body={"mask": "x"})
    assert refused.value.param == "mask"


def test_a_photo_without_a_face_fails_with_the_services_own_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.edit(image=photo_files()["cat.png"], prompt="")
    assert refused.value.code == "face_consistent_error"


def test_pictures_from_words_alone_are_refused_with_what_to_do(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="/v1/images/edits"):
        client.images.generate(prompt="an avatar")


def test_what_is_not_there_is_told_in_openais_shape_too(service: Service) -> None:
    answer = service.client.get("/v1/absent")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_with_an_idempotency_key_nothing_is_drawn_twice(service: Service) -> None:
    body = {"image": data_url(sample_photo().read_bytes()), "size": "256x256", "response_format": "url"}
    answers = [
        service.client.post("/v1/images/edits", json=body, headers={"Idempotency-Key": "openai-once"}).json()
        for _ in range(2)
    ]
    assert answers[0]["created"] == answers[1]["created"]
    urls = [httpx.URL(answer["data"][0]["url"]).path for answer in answers]
    assert urls[0] == urls[1]


# Parameters


def edit(**fields: Any) -> ImageEditRequest:
    return ImageEditRequest.model_validate({"image": PhotoSource(JPEG), **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"app_id": MODEL, "prompt": None, "batch": 1, "width": None, "height": None, "output_format": "png"}),
        ({"prompt": ""}, {"prompt": None}),
        ({"prompt": "None"}, {"prompt": "None"}),  # which means the default, as everywhere
        ({"prompt": "a knight"}, {"prompt": "a knight"}),
        ({"model": "other"}, {"app_id": "other"}),
        ({"n": 8}, {"batch": 8}),
        ({"size": "auto"}, {"width": None, "height": None}),
        ({"size": None}, {"width": None, "height": None}),
        ({"size": "1536x1024"}, {"width": 1536, "height": 1024}),
        ({"background": "transparent"}, {"remove_background": True}),
        ({"background": "opaque"}, {"remove_background": False}),
        ({"quality": "high"}, {"quality": "standard", "num_inference_steps": None}),
        ({"quality": "low"}, {"quality": "standard"}),  # this model has no preset
        ({"quality": "low", "model": "quick"}, {"quality": "fast"}),
        ({"quality": "medium", "model": "quick"}, {"quality": "fast", "num_inference_steps": None}),
        ({"quality": "high", "model": "quick"}, {"quality": "standard"}),
        ({"model": "quick"}, {"quality": "standard"}),
        ({"output_format": "webp"}, {"output_format": "webp"}),
        ({"user": "u-1"}, {"ref_id": "u-1"}),
        ({"safety_identifier": "s-1"}, {"ref_id": None}),
        ({"input_fidelity": "high"}, {"ip_adapter_scale": None}),
        ({"seed": 7, "gender": "female"}, {"seed": 7, "gender": "female"}),
        ({"stream": False, "partial_images": 0, "output_compression": 100, "moderation": "auto"}, {"batch": 1}),
        ({"stream": True}, {"previews": False}),
        ({"stream": True, "partial_images": 3}, {"previews": True}),
    ],
)
def test_a_parameter_means_this(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    request = edit(**fields).avatar_request(MODEL, fast=["quick"])
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"size": "255x256"}, "size"),
        ({"size": "1024"}, "size"),
        ({"size": "9999x9999"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"quality": "best"}, "quality"),
        ({"input_fidelity": "low"}, "input_fidelity"),
        ({"output_format": "gif"}, "output_format"),
        ({"nonsense": 1}, "nonsense"),
        ({"stream": True, "n": 2}, "n"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"partial_images": 2}, "partial_images"),
        ({"output_compression": 50}, "output_compression"),
        ({"moderation": "low"}, "moderation"),
        ({"image": None}, "image"),
        *[({name: "x"}, name) for name in REFUSED],
    ],
)
def test_what_cannot_be_met_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        edit(**fields)
    (problem,) = refused.value.errors()
    assert field in (*problem["loc"], problem.get("ctx", {}).get("field"))


def test_the_photo_is_a_part_of_either_name() -> None:
    assert PHOTO.parts == ("image", "image[]")


# Errors


def test_an_error_has_openais_shape_and_names_the_parameter() -> None:
    data = {"message": "The request is not valid.", "fields": [{"field": "n", "message": "too many"}]}
    assert error_body(422, "Invalid Request", data) == {
        "error": {
            "message": "The request is not valid. n: too many",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    }
    assert error_body(503, "Overloaded", "")["error"]["type"] == "server_error"


@pytest.mark.parametrize(("status", "repeated"), [(409, False), (504, False), (503, True), (429, True)])
def test_the_proxys_own_errors_have_it_too_and_say_what_to_repeat(status: int, repeated: bool) -> None:
    answer = proxy_error(status, path="/v1/images/edits")
    assert b'"error":{' in bytes(answer.body)
    assert (answer.headers.get("x-should-retry") != "false") == repeated
    assert b'"task_id"' in bytes(proxy_error(status, path="/getImage").body)


def test_limits_have_the_names_that_openais_clients_read() -> None:
    headers = {"RateLimit-Limit": "60", "RateLimit-Remaining": "59", "RateLimit-Reset": "12"}
    assert rate_limit_headers(headers) == headers | {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "12s",
    }
