"""Bodies, read as the ingress reads them."""

import asyncio
import base64
import contextlib
import gzip
import json
import math
import threading
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from deployments.errors import DeadlineError
from serve_app.api import body as bodies
from serve_app.api import body_budget, json_body
from serve_app.api.body import FORM, MAX_INLINE_BYTES, BodyReader
from serve_app.api.body_budget import BodyBudget
from serve_app.api.body_buffer import SMALL_BYTES, BodyBuffer
from serve_app.api.json_body import MAX_STRUCTURE, parse_json
from serve_app.errors import (
    ImageUrlError,
    InvalidRequestError,
    MediaTypeError,
    OverloadedError,
    RateLimitError,
    TooLargeError,
)
from serve_app.generation.settings import AdmissionSettings
from serve_app.photos.source import PhotoSource
from serve_app.schemas.requests import AvatarRequest, StatusRequest
from serve_app.settings import Settings
from tests.support.bodies import MAX_BYTES, part, reader_of, request_of

MIB = 1 << 20
PHOTO = b"\xff\xd8\xff" + bytes(MIB)
LARGE = json.dumps({"app_id": "a", "file_url": f"data:image/jpeg;base64,{base64.b64encode(PHOTO).decode()}"}).encode()
SMALL = b'{"app_id": "a", "file_url": "https://example.org/me.jpg"}'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="me"\r\n\r\n%s\r\n--x--\r\n'
APP = b'--x\r\nContent-Disposition: form-data; name="app_id"\r\n\r\na\r\n'
LARGE_FORM, FORM_TYPE = APP + FILE % PHOTO, f"{FORM}; boundary=x"


def budget_of(max_bytes: int, share: float = 1.0, refused: list[str] | None = None) -> BodyBudget:
    settings = AdmissionSettings(max_body_bytes_at_once=max_bytes, owner_body_share=share)
    return BodyBudget(settings, [].append if refused is None else refused.append)


async def read(reader: BodyReader, request: Request, model: Any = AvatarRequest) -> Any:
    async with reader.model(model, request) as parsed:
        return parsed


async def in_progress(reader: BodyReader, *requests: Request) -> "list[asyncio.Task[Any]]":
    """Requests whose bodies have arrived as far as they ever will."""
    running = [asyncio.create_task(read(reader, request)) for request in requests]
    for _ in range(20):
        await asyncio.sleep(0)
    return running


async def leave(running: "list[asyncio.Task[Any]]") -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


# Reading


def test_a_body_is_read_to_its_end() -> None:
    request = request_of(part(SMALL[:20], more=True), part(SMALL[20:]))
    assert asyncio.run(read(reader_of(), request)).app_id == "a"


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES, SMALL_BYTES + 1, 3 * SMALL_BYTES])
def test_a_buffer_has_what_came_whatever_its_chunks(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    buffer = BodyBuffer(MIB)
    for start in range(0, size, 1000):
        buffer.append(body[start : min(start + 1000, size)])
    assert (buffer.size, buffer.take(), buffer.size) == (size, body[:size], 0)


@pytest.mark.parametrize("request_", [request_of(announced=11), request_of(part(b"x" * 11, more=True))])
def test_a_body_that_is_too_large_is_not_read_on(request_: Request) -> None:
    with pytest.raises(TooLargeError):
        asyncio.run(read(reader_of(max_bytes=10), request_))


def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.05)
    with pytest.raises(DeadlineError):
        asyncio.run(read(reader_of(), request_of(part(b"a", more=True))))


def test_a_client_that_leaves_within_its_body_is_no_bug_of_ours() -> None:
    with pytest.raises(InvalidRequestError):
        asyncio.run(read(reader_of(), request_of(part(b"a", more=True), {"type": "http.disconnect"})))


# How many, and how much


def test_few_bodies_are_read_at_once_and_a_finished_one_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "MAX_OPEN_BODIES", 2)

    async def main() -> None:
        reader = reader_of()
        stalled = await in_progress(reader, *(request_of(owner=owner) for owner in ("ann", "bob")))
        with pytest.raises(OverloadedError) as caught:
            await read(reader, request_of(part(SMALL), owner="carl"))
        assert caught.type is OverloadedError
        await leave(stalled)
        await read(reader, request_of(part(SMALL), owner="carl"))

    asyncio.run(main())


def test_one_owner_cannot_have_all_bodies_that_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_budget, "MAX_OPEN_BODIES", 4)

    async def main() -> None:
        charged: list[str] = []
        reader = reader_of(budget_of(64 * MIB, share=0.5, refused=charged))
        stalled = await in_progress(reader, request_of(owner="ann"), request_of(owner="ann"))
        with pytest.raises(RateLimitError):
            await read(reader, request_of(part(SMALL), owner="ann"))
        assert charged == ["ann"]  # as use: its later requests go behind those of others
        await read(reader, request_of(part(SMALL), owner="bob"))
        await leave(stalled)

    asyncio.run(main())


def test_a_client_that_announces_much_and_sends_nothing_takes_nothing_from_others() -> None:
    async def main() -> None:
        budget = budget_of(2 * MAX_BYTES)
        reader = reader_of(budget)
        stalled = await in_progress(reader, *(request_of(announced=MAX_BYTES) for _ in range(16)))
        assert budget.held_bytes == 0
        await read(reader, request_of(part(LARGE), owner="bob"))
        await read(reader, request_of(part(LARGE)))
        await leave(stalled)

    asyncio.run(main())


@pytest.mark.parametrize("announced", [None, len(LARGE)])
def test_bytes_beyond_the_budget_are_refused_with_503_and_those_beyond_the_owners_share_with_429(
    announced: int | None,
) -> None:
    async def refusal_of(reader: BodyReader, owner: str) -> type[OverloadedError]:
        with pytest.raises(OverloadedError) as caught:
            await read(reader, request_of(part(LARGE), announced=announced, owner=owner))
        assert caught.value.retry_after_s == AdmissionSettings().retry_after_s
        return caught.type

    async def main() -> None:
        charged: list[str] = []
        budget = budget_of(4 * MIB, share=0.5, refused=charged)
        reader = reader_of(budget)
        arrived = part(b" " * (2 * MIB - 1000), more=True)
        stalled = await in_progress(reader, request_of(arrived, owner="ann"))
        assert await refusal_of(reader, "ann") is RateLimitError
        assert charged == ["ann"]
        await read(reader, request_of(part(LARGE), owner="bob"))
        stalled += await in_progress(reader, request_of(arrived, owner="bob"))
        assert await refusal_of(reader, "carl") is OverloadedError
        assert charged == ["ann"]  # carl is not at fault
        await leave(stalled)
        assert budget.held_bytes == 0
        await read(reader, request_of(part(LARGE), owner="ann"))

    asyncio.run(main())


def test_a_photo_counts_until_it_is_decoded_or_its_request_has_ended() -> None:
    async def main() -> None:
        budget = budget_of(64 * MIB)
        reader = reader_of(budget)
        for kind, body in (("application/json", LARGE), (FORM_TYPE, LARGE_FORM)):
            async with reader.model(AvatarRequest, request_of(part(body), kind=kind)) as parsed:
                assert budget.held_bytes == len(PHOTO)  # the rest of the body is gone
                parsed.file_url.drop()
                assert budget.held_bytes == 0
            async with reader.model(AvatarRequest, request_of(part(body), kind=kind)) as parsed:
                parsed.file_url.retain()
            assert budget.held_bytes == len(PHOTO)
            parsed.file_url.release()
            assert budget.held_bytes == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (SMALL + b" " * MIB, AvatarRequest),  # held: a URL
        (LARGE[:-1], AvatarRequest),
        (LARGE[:-1] + b', "batch": 99}', AvatarRequest),
        (b'{"app_id": "a", "file_url": "%s"}' % (b"x" * MIB), AvatarRequest),
        (b'{"id": "x"}' + b" " * MIB, StatusRequest),
    ],
)
def test_nothing_stays_counted_after_a_request_whatever_became_of_it(body: bytes, model: Any) -> None:
    async def main() -> None:
        budget = budget_of(64 * MIB)
        with contextlib.suppress(InvalidRequestError, ImageUrlError):
            await read(reader_of(budget), request_of(part(body)), model)
        assert budget.held_bytes == 0
        assert not budget._open

    asyncio.run(main())


def test_a_service_whose_largest_body_would_never_be_accepted_does_not_start() -> None:
    with pytest.raises(ValidationError, match="never be accepted"):
        Settings(max_body_bytes=50 * MIB, admission={"max_body_bytes_at_once": 96 * MIB})
    assert Settings(max_body_bytes=48 * MIB, admission={"max_body_bytes_at_once": 96 * MIB})


def test_the_largest_photo_fits_into_a_body_whatever_lines_its_base64_has() -> None:
    settings = Settings()
    lines = math.ceil(settings.fetch.max_bytes / 57)  # 76 characters each, and an escaped \\r\\n
    assert lines * (76 + 4) < settings.max_body_bytes
    assert settings.max_body_bytes <= 48 * MIB  # half of what a replica holds at once


# Parsing


@pytest.mark.parametrize(("kind", "body"), [("application/json", LARGE), (FORM_TYPE, LARGE_FORM)])
def test_a_large_body_is_parsed_and_its_photo_decoded_off_the_event_loop(
    kind: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def noted(self: PhotoSource, content: str | bytes) -> None:
        threads.append(threading.current_thread())
        original(self, content)

    original = PhotoSource.__init__
    monkeypatch.setattr(PhotoSource, "__init__", noted)
    asyncio.run(read(reader_of(), request_of(part(body), kind=kind)))
    assert len(body) > MAX_INLINE_BYTES
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    "bomb", [b"[" + b"[]," * MAX_STRUCTURE + b"[]]", b'{"a":' * (MAX_STRUCTURE + 1), b"[" * MAX_STRUCTURE * 2]
)
def test_a_body_with_more_structure_than_any_request_has_is_not_parsed(
    bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_body, "from_json", lambda *_args, **_options: pytest.fail("it was parsed"))
    with pytest.raises(InvalidRequestError, match="not valid"):
        parse_json(bomb)


def test_a_prompt_may_be_made_of_commas() -> None:
    prompt = "," * 2000
    assert (
        parse_json(b'{"prompt": "%s", "negative_prompt": "%s"}' % (prompt.encode(), prompt.encode()))["prompt"]
        == prompt
    )


def test_a_byte_order_mark_before_json_is_skipped() -> None:
    body = b'\xef\xbb\xbf{"app_id": "face-avatar", "file_url": "https://example.org/me.jpg", "batch": 2}'
    assert asyncio.run(read(reader_of(), request_of(part(body)))).batch == 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "gzip, identity", "identity,deflate"])
def test_a_compressed_body_is_refused_by_its_encoding(encoding: str) -> None:
    request = request_of(part(gzip.compress(b"{}")))
    request.scope["headers"].append((b"content-encoding", encoding.encode()))
    with pytest.raises(MediaTypeError, match="send it as it is") as refused:
        asyncio.run(read(reader_of(), request))
    assert refused.value.data["accepted"] == "identity"


@pytest.mark.parametrize("encoding", ["", "identity", " Identity ", "UTF-8", "none", "aws-chunked"])
def test_a_body_may_say_that_it_is_not_compressed(encoding: str) -> None:
    request = request_of(part(b'{"app_id": "a", "file_url": "https://example.org/me.jpg"}'))
    request.scope["headers"].append((b"content-encoding", encoding.encode()))
    assert asyncio.run(read(reader_of(), request)).app_id == "a"
