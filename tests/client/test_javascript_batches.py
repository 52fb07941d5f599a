"""Batches through the client for browsers and Node: against the HTTP application of an ingress, and a broken stream."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.batches import Press
from tests.support.fake_service import TOKEN, Answer, by_proxy, envelope
from tests.support.fake_service import serving as serving_fakes
from tests.support.http_clients import serving
from tests.support.ingresses import Ingress, scenario_runner
from tests.support.node import IMPORT, needs_node, run_node

pytestmark = needs_node

BEGIN = (
    IMPORT
    + """
const client = new FaceAvatarClient({ baseUrl: process.env.URL_OF_SERVICE, token: process.env.TOKEN });
const tell = (value) => console.log(JSON.stringify(value));
const failed = (call) => call.then(() => null, ({ name, fields }) => [name, fields[0].custom_id]);
"""
)
FILL = """
const photo = "https://example.org/me.jpg";
const file = new Blob([new Uint8Array(9).fill(255)], { type: "image/png" });
const items = [
  { custom_id: "a", photos: photo, ref_id: "a", style: null },
  { custom_id: "b", photos: [photo, file], ref_id: "b" },
];
const batch = await client.batches.create({ defaults: { gender: "female" }, ref_id: "order" });
const added = [await client.batches.add(batch, items), await client.batches.add(batch, items)];
const refused = await failed(client.batches.add(batch, [{ custom_id: "c", photos: photo, batch: 99 }]));
const { state } = await client.batches.close(batch);
tell([batch.batch_id, added, refused, state, (await client.batches.list()).map(({ ref_id }) => ref_id)]);
"""
READ = """
const batch = await client.batches.get(process.env.BATCH);
const found = [];
for await (const { index, custom_id, envelope } of client.batches.results(batch)) {
  found.push([index, custom_id, envelope.status]);
}
const rest = [];
for await (const { index } of client.batches.results(batch.batch_id, { after: 1 })) rest.push(index);
tell([batch.state, batch.counts.succeeded, found, rest, (await client.batches.cancel(batch)).state]);
"""


def test_a_batch_is_filled_and_its_results_are_read(
    valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        press = Press(make("picture"), tmp_path)
        async with serving(press.ingress, tmp_path) as (url, token):
            service = {"URL_OF_SERVICE": url, "TOKEN": token}
            batch_id, *told = await asyncio.to_thread(run_node, tmp_path, BEGIN + FILL, **service)
            assert told == [[2, 0], ["Invalid Request", "c"], "running", ["order"]]
            await press.run()
            told = await asyncio.to_thread(run_node, tmp_path, BEGIN + READ, BATCH=batch_id, **service)
            assert told == ["finished", 2, [[1, "a", "SUCCESS"], [2, "b", "SUCCESS"]], [2], "finished"]

    scenario_runner(valkey, tmp_path, monkeypatch)(scenario)


def lines(*indices: int, sent: int | None = None) -> Answer:
    told = (
        {"index": index, "custom_id": str(index), "envelope": json.loads(envelope(task_id=str(index)))}
        for index in indices
    )
    body = b"".join(json.dumps(each).encode() + b"\n" for each in told)
    return Answer(200, body, kind="application/x-ndjson", sent=None if sent is None else len(body) + sent)


def test_results_that_break_off_go_on_after_the_last_whole_line(tmp_path: Path) -> None:
    with serving_fakes() as service:
        service.faults += [lambda _: lines(1, 2, sent=-5), by_proxy(502), lambda _: lines(2, 3)]
        program = """
            const found = [];
            for await (const { index } of client.batches.results("an id")) found.push(index);
            tell(found);
            """
        assert run_node(tmp_path, BEGIN + program, URL_OF_SERVICE=service.url, TOKEN=TOKEN) == [1, 2, 3]
        assert [seen.target for seen in service.seen] == [
            f"/api/v1/batches/an%20id/results?after={after}" for after in (0, 1, 1)
        ]


def test_what_is_no_file_of_results_is_an_error_at_once(tmp_path: Path) -> None:
    with serving_fakes() as service:
        service.faults.append(lambda _: Answer(200, b"<html>a portal</html>", kind="text/html"))
        program = 'tell(await client.batches.results("id").next().catch(({ name }) => name));'
        assert run_node(tmp_path, BEGIN + program, URL_OF_SERVICE=service.url, TOKEN=TOKEN) == "Unexpected Answer"
        assert len(service.seen) == 1
