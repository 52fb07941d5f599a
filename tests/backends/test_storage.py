import asyncio
import os
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from serve_app.backends.object_store import (
    FOLDER,
    KEY,
    PROBE,
    Results,
    StoreSettings,
    media_type,
    photo_key,
    result_key,
    thumbnail_key,
)
from serve_app.errors import ForbiddenError, NotFoundError, StoreError
from serve_app.generation.validation import new_task_id

TASK = "018f0000-0000-7000-8000-000000000000"
FIRST = result_key(TASK, 0, "png")


def open_folder(data_dir: Path, signing_key: bytes = b"key" * 11, ttl_s: int = 60) -> Results:
    return Results.open(StoreSettings(), data_dir=data_dir, signing_key=signing_key, ttl_s=ttl_s)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return open_folder(tmp_path)


def url_of(results: Results, key: str, base_url: str = "http://host") -> str:
    [url] = asyncio.run(results.urls([key], base_url))
    return url


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    asyncio.run(open_folder(tmp_path).put(FIRST, b"picture"))
    assert asyncio.run(open_folder(tmp_path).get(FIRST)) == b"picture"


def test_what_is_not_there_is_not_found(results: Results) -> None:
    with pytest.raises(NotFoundError):
        asyncio.run(results.get(result_key(TASK, 7, "webp")))


def test_what_was_deleted_is_gone_and_what_was_missing_is_no_matter(results: Results, tmp_path: Path) -> None:
    keys = [*(result_key(TASK, index, "png") for index in range(8)), *(thumbnail_key(TASK, i) for i in range(8))]
    present = [keys[-1], photo_key(TASK)]

    async def put_and_delete() -> None:
        for key in present:
            await results.put(key, b"picture")
        await results.delete([*keys, photo_key(TASK)])

    asyncio.run(put_and_delete())
    assert list((tmp_path / FOLDER).iterdir()) == []  # no empty folders of tasks either
    asyncio.run(results.delete(present))


def test_a_reader_sees_a_file_whole_while_it_is_written_anew(results: Results) -> None:
    versions = [letter * 4_000_000 for letter in (b"a", b"b", b"c", b"d")]

    async def write() -> None:
        for version in versions:
            await results.put(FIRST, version)

    async def scenario() -> set[bytes]:
        await results.put(FIRST, versions[0])
        seen = set()
        writing = asyncio.create_task(write())
        while not writing.done():
            seen.add(await results.get(FIRST))
        await writing
        return seen

    seen = asyncio.run(scenario())
    assert seen
    assert seen <= set(versions)


@pytest.mark.parametrize("key", ["../token", "a/../../token", "..", f"{TASK}/../../../token", "a//b"])
def test_no_key_leaves_the_folder(results: Results, tmp_path: Path, key: str) -> None:
    (tmp_path / "token").write_bytes(b"secret")
    for operation in (results.put(key, b"mine"), results.get(key), results.delete([key])):
        with pytest.raises((ValueError, TypeError), match="path"):
            asyncio.run(operation)
    assert files_in(tmp_path) == ["token"]
    assert (tmp_path / "token").read_bytes() == b"secret"


def test_an_absolute_key_stays_below_the_folder(results: Results, tmp_path: Path) -> None:
    asyncio.run(results.put("/token", b"mine"))
    assert files_in(tmp_path) == [f"{FOLDER}/token"]


def test_a_check_leaves_a_file_that_no_url_can_name(results: Results, tmp_path: Path) -> None:
    asyncio.run(results.check())
    assert files_in(tmp_path) == [f"{FOLDER}/{PROBE}"]
    assert not KEY.fullmatch(PROBE)


def test_a_folder_that_cannot_be_written_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    results = open_folder(tmp_path)
    (tmp_path / FOLDER).rmdir()
    (tmp_path / FOLDER).write_text("not a folder")
    for operation in (results.check(), results.put(FIRST, b""), results.get(FIRST), results.delete([FIRST])):
        with pytest.raises(StoreError) as raised:
            asyncio.run(operation)
        assert str(tmp_path) not in str(raised.value.data)
        assert raised.value.__cause__ is not None


def test_a_disk_that_hangs_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    settings = StoreSettings(timeout_s=0.1)
    results = Results.open(settings, data_dir=tmp_path, signing_key=b"key", ttl_s=60)
    pipe = tmp_path / FOLDER / TASK
    os.mkfifo(pipe)

    async def scenario() -> None:
        try:
            with pytest.raises(StoreError):
                await asyncio.wait_for(results.get(TASK), timeout=5)
        finally:
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # lets the reader go

    asyncio.run(scenario())


def test_a_url_carries_a_signature_that_holds_for_its_key_only(results: Results) -> None:
    url = url_of(results, FIRST, "http://host/")
    assert url.startswith(f"http://host/files/{TASK}/0.png?")
    results.check_signature(FIRST, **query_of(url))
    for key in (result_key(TASK, 1, "png"), thumbnail_key(TASK, 0)):
        with pytest.raises(ForbiddenError):
            results.check_signature(key, **query_of(url))


def test_urls_come_in_the_order_of_their_keys(results: Results) -> None:
    keys = [result_key(TASK, index, "webp") for index in (3, 0, 2)]
    urls = asyncio.run(results.urls(keys, "http://host"))
    assert [urlsplit(url).path for url in urls] == [f"/files/{key}" for key in keys]


def test_a_signature_of_another_service_does_not_count(results: Results, tmp_path: Path) -> None:
    with pytest.raises(ForbiddenError):
        results.check_signature(FIRST, **query_of(url_of(open_folder(tmp_path, b"other key"), FIRST)))


def test_a_url_ends_with_its_time(tmp_path: Path) -> None:
    outdated = open_folder(tmp_path, ttl_s=-1)
    with pytest.raises(ForbiddenError, match="expired"):
        outdated.check_signature(FIRST, **query_of(url_of(outdated, FIRST)))


@pytest.mark.parametrize("expires", ["", "x", "-1", "²", "9" * 40])
def test_an_odd_expiry_is_refused_like_a_wrong_signature(results: Results, expires: str) -> None:
    with pytest.raises(ForbiddenError):
        results.check_signature(FIRST, expires, "ü")


@pytest.mark.parametrize(
    "key", ["", "../token", f"{TASK}/../../token", f"{TASK}/10.png", f"{TASK}/0.svg", "x/0.png", photo_key(TASK)]
)
def test_what_is_not_the_key_of_a_result_is_not_looked_up(results: Results, key: str) -> None:
    with pytest.raises(NotFoundError):
        results.check_signature(key, "1", "")


def test_media_types() -> None:
    assert [media_type(f"{TASK}/0.{end}") for end in ("png", "jpeg", "webp", "thumb.webp")] == [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/webp",
    ]


@pytest.mark.parametrize(
    "url", ["", "/srv/results", "file:///srv", "https://bucket", "s3:bucket", "s3://", "az://account", "s3://me:pw@b"]
)
def test_a_url_of_no_object_store_is_refused_with_the_settings(url: str) -> None:
    with pytest.raises(ValidationError, match="s3://bucket/prefix"):
        StoreSettings(url=url)


def test_only_an_object_store_is_shared_between_machines() -> None:
    assert not StoreSettings().is_shared
    assert StoreSettings(url="s3://bucket").is_shared


def test_settings_do_not_show_their_secrets() -> None:
    settings = StoreSettings.model_validate({"url": "s3://bucket", "options": {"secret_access_key": "hush"}})
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_task_ids_are_version_7_and_sort_by_time() -> None:
    first = new_task_id()
    until = time.time() + 0.005
    while time.time() < until:
        pass
    second = new_task_id()
    assert first < second
    assert {first[14], second[14]} == {"7"}
    assert {first[19], second[19]} <= set("89ab")
