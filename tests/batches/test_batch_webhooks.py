"""The webhook of a batch: a real receiver on loopback, a real Valkey and a real store."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from serve_app.auth.webhook_signature import webhook_secret
from serve_app.batches.keys import BatchKeys
from serve_app.worker.webhook_messages import BatchWebhooks
from serve_app.worker.webhooks import WebhookSender
from tests.support.batches import BATCHES, Press, added, lines, opened, view
from tests.support.http_clients import browsing
from tests.support.ingresses import Ingress, scenario_runner
from tests.support.webhooks import KEY, LOOPBACK, Receiver, receiving, verified

Scenario = Callable[[Press, httpx.AsyncClient, Receiver], Awaitable[None]]


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    monkeypatch.setattr("serve_app.worker.webhooks.FIRST_PAUSE_S", 0.0)

    def run(scenario: Scenario) -> None:
        async def within(make: Callable[..., Ingress]) -> None:
            ingress = make("picture", fetch=LOOPBACK)
            async with receiving() as receiver, browsing(ingress, tmp_path) as (client, _):
                await scenario(Press(ingress, tmp_path), client, receiver)

        scenario_runner(valkey, tmp_path, monkeypatch)(within)

    return run


async def call(press: Press) -> None:
    """What one worker sends now."""
    sender = WebhookSender([BatchWebhooks(press.store)], KEY, LOOPBACK)
    await sender.run_once()
    await sender.wait()


async def filled(client: httpx.AsyncClient, receiver: Receiver, *names: str) -> str:
    """A batch with a webhook, to which nothing is added any more."""
    batch_id = await opened(client, webhook_url=f"{receiver.url}/hook?secret=1", ref_id="order")
    assert (await added(client, batch_id, lines(names))).status_code == 200
    assert (await client.post(f"{BATCHES}/{batch_id}/close")).status_code == 200
    return batch_id


def test_a_batch_is_posted_once_when_all_of_it_has_ended_and_signed_with_its_owners_secret(
    at: Callable[[Scenario], None],
) -> None:
    async def scenario(press: Press, client: httpx.AsyncClient, receiver: Receiver) -> None:
        batch_id = await filled(client, receiver, "a", "b")
        await press.feed()
        await press.draw(most=1)
        await press.feed()
        await call(press)
        assert receiver.got == []
        await press.run()
        await asyncio.gather(*(call(press) for _ in range(3)))
        ((headers, body),) = receiver.got
        told = json.loads(body)
        batch = told["output"]["batch"]
        assert (told["status"], batch["batch_id"], batch["state"]) == ("SUCCESS", batch_id, "finished")
        assert (batch["ref_id"], batch["counts"]["succeeded"], batch["counts"]["total"]) == ("order", 2, 2)
        record = await press.store.get(batch_id)
        assert record is not None
        assert verified(headers, body, webhook_secret(KEY, record.batch.owner))
        assert not verified(headers, body, webhook_secret(KEY, "another"))
        seen = await view(client, batch_id)
        assert (seen["webhook"]["attempts"], seen["webhook"]["status"]) == (1, 200)
        assert "secret=1" not in json.dumps(seen)

    at(scenario)


def test_a_cancelled_batch_is_told_of_and_one_without_a_webhook_is_not(at: Callable[[Scenario], None]) -> None:
    async def scenario(press: Press, client: httpx.AsyncClient, receiver: Receiver) -> None:
        quiet, batch_id = await opened(client), await filled(client, receiver, "a", "b")
        await press.feed()
        for each in (quiet, batch_id):
            assert (await client.delete(f"{BATCHES}/{each}")).status_code == 200
        await call(press)
        ((_headers, body),) = receiver.got
        told = json.loads(body)
        assert (told["status"], told["output"]["batch"]["batch_id"]) == ("CANCELLED", batch_id)
        assert told["output"]["batch"]["counts"]["cancelled"] == 2
        assert (await view(client, quiet))["webhook"] is None

    at(scenario)


def test_a_receiver_that_fails_is_tried_again_with_the_same_id_until_it_wants_no_more(
    at: Callable[[Scenario], None],
) -> None:
    async def scenario(press: Press, client: httpx.AsyncClient, receiver: Receiver) -> None:
        receiver.statuses = [500, None, 410, 200]
        batch_id = await filled(client, receiver, "a")
        await press.run()
        for _ in range(5):
            await call(press)
        assert len(receiver.got) == 3
        assert len({headers["webhook-id"] for headers, _body in receiver.got}) == 1
        webhook = (await view(client, batch_id))["webhook"]
        assert (webhook["attempts"], webhook["status"], webhook["given_up"]) == (3, 410, True)

    at(scenario)


def test_a_delivery_that_died_with_its_process_is_made_by_another(at: Callable[[Scenario], None]) -> None:
    async def scenario(press: Press, client: httpx.AsyncClient, receiver: Receiver) -> None:
        batch_id = await filled(client, receiver, "a")
        await press.run()
        assert [due for due, _owner in await press.store.due_webhooks(5, 5, {}, 3600)] == [batch_id]  # there it ends
        await call(press)
        assert receiver.got == []
        await press.ingress.redis.zincrby(BatchKeys(press.ingress.redis).webhooks, -3600, batch_id)  # an hour later
        await call(press)
        assert len(receiver.got) == 1

    at(scenario)


def test_a_webhook_that_may_not_be_called_opens_no_batch(at: Callable[[Scenario], None]) -> None:
    async def scenario(_press: Press, client: httpx.AsyncClient, _receiver: Receiver) -> None:
        answer = await client.post(BATCHES, json={"webhook_url": "ftp://example.org/hook"})
        assert answer.status_code == 422
        assert answer.json()["error_data"]["fields"][0]["field"] == "webhook_url"
        assert (await client.get(BATCHES)).json()["output"]["batches"] == []

    at(scenario)
