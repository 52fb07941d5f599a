import asyncio
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from serve_app.errors import ForbiddenError, NotFoundError
from serve_app.service import new_task_id
from serve_app.storage import LocalResults, media_type, result_key, thumbnail_key

TASK = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture
def results(tmp_path: Path) -> LocalResults:
    return LocalResults(tmp_path, b"key" * 11, ttl_s=60)


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    key = result_key(TASK, 0, "png")
    asyncio.run(LocalResults(tmp_path, b"a", 60).put(key, b"picture"))
    assert asyncio.run(LocalResults(tmp_path, b"a", 60).get(key)) == b"picture"


def test_what_is_not_there_is_not_found(results: LocalResults) -> None:
    with pytest.raises(NotFoundError):
        asyncio.run(results.get(result_key(TASK, 7, "webp")))


def test_a_url_carries_a_signature_that_holds_for_its_key_only(results: LocalResults) -> None:
    url = urlsplit(results.url(result_key(TASK, 0, "png"), "http://host/"))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert url.path == f"/files/{TASK}/0.png"
    results.check_signature(result_key(TASK, 0, "png"), **query)
    for key in (result_key(TASK, 1, "png"), thumbnail_key(TASK, 0)):
        with pytest.raises(ForbiddenError):
            results.check_signature(key, **query)


def test_a_signature_of_another_service_does_not_count(results: LocalResults, tmp_path: Path) -> None:
    key = result_key(TASK, 0, "png")
    url = urlsplit(LocalResults(tmp_path, b"other key", 60).url(key, "http://host"))
    with pytest.raises(ForbiddenError):
        results.check_signature(key, **{name: values[0] for name, values in parse_qs(url.query).items()})


def test_a_url_ends_with_its_time(tmp_path: Path) -> None:
    outdated = LocalResults(tmp_path, b"key", ttl_s=-1)
    key = result_key(TASK, 0, "png")
    query = {name: values[0] for name, values in parse_qs(urlsplit(outdated.url(key, "http://h")).query).items()}
    with pytest.raises(ForbiddenError, match="expired"):
        outdated.check_signature(key, **query)


@pytest.mark.parametrize("expires", ["", "x", "-1", "²", "9" * 40])
def test_an_odd_expiry_is_refused_like_a_wrong_signature(results: LocalResults, expires: str) -> None:
    with pytest.raises(ForbiddenError):
        results.check_signature(result_key(TASK, 0, "png"), expires, "ü")


@pytest.mark.parametrize("key", ["", "../token", f"{TASK}/../../token", f"{TASK}/10.png", f"{TASK}/0.svg", "x/0.png"])
def test_what_cannot_be_a_key_is_not_looked_up(results: LocalResults, key: str) -> None:
    with pytest.raises(NotFoundError):
        results.check_signature(key, "1", "")


def test_media_types() -> None:
    assert [media_type(f"{TASK}/0.{end}") for end in ("png", "jpeg", "webp", "thumb.webp")] == [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/webp",
    ]


def test_task_ids_are_version_7_and_sort_by_time() -> None:
    first = new_task_id()
    until = time.time() + 0.005
    while time.time() < until:
        pass
    second = new_task_id()
    assert first < second
    assert {first[14], second[14]} == {"7"}
    assert {first[19], second[19]} <= set("89ab")
