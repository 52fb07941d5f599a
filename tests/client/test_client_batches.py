"""Batches through the Python client: against the HTTP application of an ingress, and step by step."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.client import (
    AsyncFaceAvatarClient,
    BatchItem,
    BatchResult,
    ConnectionFailedError,
    FaceAvatarClient,
    ServiceError,
    UnexpectedAnswerError,
    WebhookDelivery,
)
from serve_app.client.batches import BatchRequests
from serve_app.client.exchange import Answer, Read, Report, Send, Sleep
from serve_app.client.requests import Requests
from tests.support.batches import Press
from tests.support.fake_service import envelope, picture
from tests.support.http_clients import serving
from tests.support.ingresses import Ingress, scenario_runner

LINES = httpx.Headers({"content-type": "application/x-ndjson"})
DROPPED = httpx.ReadError("gone")


def test_both_clients_fill_a_batch_and_read_its_results(
    valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(picture(1))
    items = [BatchItem("a", photo, {"ref_id": "a"}), BatchItem("b", [photo, photo], {"ref_id": "b"})]

    def blocking(url: str, token: str) -> str:
        with FaceAvatarClient(url, token) as client:
            batch = client.batches.create({"gender": "female"}, ref_id="order", webhook_url="https://example.org/done")
            assert client.batches.add(batch, items) == 2
            assert client.batches.add(batch, items) == 0
            with pytest.raises(ServiceError, match="none was added") as refused:
                client.batches.add(batch, [BatchItem("c", photo, {"batch": 99})])
            assert refused.value.error_data["fields"][0]["custom_id"] == "c"
            assert client.batches.close(batch).state == "running"
            assert [found.ref_id for found in client.batches.list()] == ["order"]
            return batch.batch_id

    async def scenario(make: Callable[..., Ingress]) -> None:
        press = Press(make("picture"), tmp_path)
        async with serving(press.ingress, tmp_path) as (url, token):
            batch_id = await asyncio.to_thread(blocking, url, token)
            await press.run()
            async with AsyncFaceAvatarClient(url, token) as client:
                batch = await client.batches.get(batch_id)
                assert (batch.finished, batch.counts.succeeded, batch.webhook) == (True, 2, WebhookDelivery())
                found = [result async for result in client.batches.results(batch)]
                assert [(result.index, result.custom_id) for result in found] == [(1, "a"), (2, "b")]
                assert await client.avatars.download(found[0].task.images[0])
                assert [result.index async for result in client.batches.results(batch, after=1)] == [2]
                assert (await client.batches.cancel(batch)).state == "finished"

    scenario_runner(valkey, tmp_path, monkeypatch)(scenario)


def line(index: int) -> bytes:
    told = {"index": index, "custom_id": str(index), "envelope": json.loads(envelope(task_id=str(index)))}
    return json.dumps(told).encode() + b"\n"


def results(retries: int = 2) -> Any:
    return BatchRequests(Requests("http://service", "token", 60, retries)).results("id", 0)


def test_results_go_on_after_the_last_whole_line_where_a_connection_breaks_off() -> None:
    flow = results()
    assert isinstance(next(flow), Send)
    assert isinstance(flow.send(Answer(200, LINES, b"")), Read)
    both = line(1) + line(2)
    reported = flow.send(both[:-5])
    assert isinstance(reported, Report)
    assert (reported.value.index, reported.value.task.task_id) == (1, "1")
    assert isinstance(next(flow), Read)
    assert isinstance(flow.send(DROPPED), Sleep)
    again = next(flow)
    assert isinstance(again, Send)
    assert again.call.url.params["after"] == "1"
    assert isinstance(flow.send(Answer(200, LINES, b"")), Read)
    second = flow.send(line(2))
    assert isinstance(second.value, BatchResult)
    assert isinstance(next(flow), Read)
    with pytest.raises(StopIteration):
        flow.send(None)


def test_results_that_never_come_are_given_up() -> None:
    flow = results(retries=1)
    assert isinstance(next(flow), Send)
    assert isinstance(flow.send(DROPPED), Sleep)
    assert isinstance(next(flow), Send)
    with pytest.raises(ConnectionFailedError):
        flow.send(DROPPED)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (Answer(200, httpx.Headers({"content-type": "text/html"}), b"<html>"), None),
        (Answer(200, LINES, b""), b"no JSON\n"),
        (Answer(200, LINES, b""), b"x" * (4 * 1024 * 1024 + 1)),
    ],
    ids=["a page", "no JSON", "a line without an end"],
)
def test_what_is_no_file_of_results_is_unexpected(answer: Answer, read: bytes | None) -> None:
    flow = results()
    next(flow)
    with pytest.raises(UnexpectedAnswerError):
        deque(map(flow.send, (answer, read)))


def test_a_batch_that_is_not_there_is_an_error_of_the_service() -> None:
    flow = results()
    next(flow)
    missing = envelope(error="Unknown Batch", error_data={"message": "There is no batch."}, status="FAILED")
    with pytest.raises(ServiceError, match="Unknown Batch"):
        flow.send(Answer(404, httpx.Headers(), missing))
