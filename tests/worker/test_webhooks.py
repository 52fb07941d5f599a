"""Webhooks: a real receiver on loopback, a real Valkey and a real store."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver

import serve_app
from serve_app.auth.webhook_signature import webhook_secret
from serve_app.backends.object_store import Results, StoreSettings
from serve_app.generation.execution import failure_outcome
from serve_app.photos.urls import FetchSettings
from serve_app.schemas.responses import Status
from serve_app.tasks.models import Delivery, Outcome, TaskRecord, Webhook
from serve_app.worker.periodic import PeriodicTasks
from serve_app.worker.webhook_messages import TaskWebhooks
from serve_app.worker.webhooks import AT_ONCE, AT_ONCE_OF_OWNER, MAX_ATTEMPTS, WebhookSender, pause_s
from tests.support.polling import eventually
from tests.support.resolvers import FixedResolver
from tests.support.tasks import AVATAR, Office, task
from tests.support.webhooks import KEY, LOOPBACK, Receiver, receiving, verified


class Post(Office):
    """An office whose tasks have webhooks, and processes that send them."""

    def __init__(self, data_dir: Path, receiver: Receiver) -> None:
        super().__init__(data_dir)
        self.receiver = receiver
        self.results = Results.open(StoreSettings(), data_dir=data_dir, signing_key=b"key", ttl_s=60)
        self.senders: list[WebhookSender] = []
        self.rounds = PeriodicTasks()
        self.loops: list[asyncio.Task[None]] = []

    def send(self, settings: FetchSettings = LOOPBACK, resolver: AbstractResolver | None = None) -> None:
        store = self.store(f"sender{len(self.senders)}")
        resolver_of = None if resolver is None else lambda _owner: resolver
        self.senders.append(WebhookSender([TaskWebhooks(store, self.results)], KEY, settings, resolver_of))
        self.loops.append(asyncio.create_task(self.rounds.run(self.senders[-1])))

    async def finished(
        self, name: str = "a", status: Status = "SUCCESS", url: str | None = None, owner: str = "ann"
    ) -> None:
        """A task that ended, and whose webhook was not called yet."""
        webhook = Webhook(url=url or f"{self.receiver.url}/hook?secret=1", base_url="http://service")
        submitted = task(name, owner=owner).model_copy(update={"webhook": webhook})
        await self.store("w").create(submitted, "STARTED")
        outcome = Outcome(avatars=(AVATAR,)) if status == "SUCCESS" else failure_outcome(ValueError())
        assert await self.store("w").finish(submitted, status, outcome)

    async def delivery(self, name: str = "a") -> Delivery:
        record = await self.store("x").get(name)
        assert record is not None
        assert record.delivery is not None
        return record.delivery

    async def until(self, check: Callable[[Delivery], bool], name: str = "a") -> Delivery:
        async def reached() -> Delivery | None:
            delivery = await self.delivery(name)
            return delivery if check(delivery) else None

        return await eventually(reached)


Scenario = Callable[[Post, Receiver], Awaitable[None]]


@pytest.fixture
def at(valkey: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    monkeypatch.setattr(WebhookSender, "every_s", 0.02)
    monkeypatch.setattr("serve_app.worker.webhooks.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("serve_app.worker.webhooks.MAX_PAUSE_S", 0.05)

    def run(scenario: Scenario) -> None:
        async def within() -> None:
            async with asyncio.timeout(30), receiving() as receiver:
                post = Post(valkey, receiver)
                async with post.redis:
                    await scenario(post, receiver)
                    post.rounds.close()
                    await asyncio.gather(*post.loops)
                    await asyncio.gather(*(sender.wait() for sender in post.senders))

        asyncio.run(within())

    return run


def test_the_final_envelope_is_posted_once_and_signed_with_the_owners_secret(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        await post.finished()
        for _ in range(3):
            post.send()
        delivery = await post.until(lambda delivery: delivery.delivered_at is not None)
        assert (delivery.attempts, delivery.status, delivery.given_up) == (1, 200, False)
        await eventually(lambda: _is_empty(post))
        ((headers, body),) = receiver.got
        envelope = json.loads(body)
        assert (envelope["task_id"], envelope["status"]) == ("a", "SUCCESS")
        assert envelope["output"]["result"][0].startswith("http://service/files/a/0.png?")
        assert headers["User-Agent"] == f"face-avatar/{serve_app.__version__}"
        assert verified(headers, body, webhook_secret(KEY, "ann"))
        assert not verified(headers, body, webhook_secret(KEY, "bob"))
        assert not verified(headers, body + b" ", webhook_secret(KEY, "ann"))

    at(scenario)


async def _is_empty(post: Post) -> bool:
    return not await post.redis.zcard(post.keys.webhooks)


@pytest.mark.parametrize("bad", [500, 302, 404, None])
def test_a_receiver_that_fails_is_tried_again_with_the_same_id(at: Callable[[Scenario], None], bad: int | None) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        receiver.statuses = [bad, bad, 204]
        await post.finished(status="FAILED")
        post.send()
        delivery = await post.until(lambda delivery: delivery.delivered_at is not None)
        assert (delivery.attempts, delivery.status, delivery.error) == (3, 204, "")
        assert len({headers["webhook-id"] for headers, _body in receiver.got}) == 1
        assert len(receiver.got) == 3

    at(scenario)


@pytest.mark.parametrize(("status", "attempts"), [(500, MAX_ATTEMPTS), (410, 1)])
def test_it_is_given_up_in_the_end(at: Callable[[Scenario], None], status: int, attempts: int) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        receiver.statuses = [status]
        await post.finished()
        post.send()
        delivery = await post.until(lambda delivery: delivery.given_up)
        assert (delivery.attempts, delivery.status, len(receiver.got)) == (attempts, status, attempts)
        assert await _is_empty(post)

    at(scenario)


def test_a_delivery_that_died_with_its_process_is_made_by_another(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        await post.finished()
        assert await post.store("dead").due_webhooks(5, 5, {}, 3600) == [("a", "ann")]  # and there it ends
        assert await post.store("other").due_webhooks(5, 5, {}, 3600) == []
        await post.redis.zincrby(post.keys.webhooks, -3600, "a")  # an hour later
        post.send()
        await post.until(lambda delivery: delivery.delivered_at is not None)
        assert len(receiver.got) == 1

    at(scenario)


def test_an_address_that_is_not_public_is_never_connected_to(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        port = int(receiver.url.rpartition(":")[2])
        guarded = FetchSettings(ports=(port,), timeout_s=2)
        await post.finished(url=f"http://client.example:{port}/hook")
        post.send(guarded, FixedResolver("127.0.0.1"))
        delivery = await post.until(lambda delivery: delivery.given_up)
        assert "not public" in delivery.error
        assert "127.0.0.1" not in delivery.model_dump_json()
        assert receiver.got == []

    at(scenario)


def test_a_cancelled_task_is_told_of_and_one_without_a_webhook_is_not(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        webhook = Webhook(url=f"{receiver.url}/hook", base_url="http://service")
        await post.store("w").create(task("quiet"), "PENDING")
        await post.store("w").create(task("a").model_copy(update={"webhook": webhook}), "PENDING")
        await post.store("w").cancel("quiet")
        await post.store("w").cancel("a")
        post.send()
        await post.until(lambda delivery: delivery.delivered_at is not None)
        assert [json.loads(body)["status"] for _headers, body in receiver.got] == ["CANCELLED"]
        record: TaskRecord | None = await post.store("x").get("quiet")
        assert record is not None
        assert record.delivery is None

    at(scenario)


def test_what_has_expired_is_not_told_of(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        await post.finished()
        await post.redis.delete(post.keys.record("a"))
        post.send()
        await eventually(lambda: _is_empty(post))
        assert receiver.got == []
        assert await post.store("x").get("a") is None

    at(scenario)


def test_slow_receivers_of_one_owner_do_not_delay_the_webhook_of_another(at: Callable[[Scenario], None]) -> None:
    async def scenario(post: Post, receiver: Receiver) -> None:
        slow = f"{receiver.url}/slow"
        for index in range(2 * AT_ONCE):
            await post.finished(f"slow{index}", url=slow, owner="mallory")
        post.send(FetchSettings(allow_private=True, timeout_s=3600))
        await eventually(lambda: asyncio.sleep(0, receiver.slow_calls == AT_ONCE_OF_OWNER))
        await post.finished("a", owner="ann")
        await post.until(lambda delivery: delivery.delivered_at is not None)
        assert receiver.order() == ["a"]
        assert receiver.slow_calls == AT_ONCE_OF_OWNER
        receiver.slow.set()
        await eventually(lambda: _is_empty(post))
        assert len(receiver.got) == 2 * AT_ONCE + 1
        assert not await post.redis.keys(f"{post.keys.webhooks}*")

    at(scenario)


def test_owners_take_turns_and_each_ones_webhooks_are_called_in_order(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.worker.webhooks.AT_ONCE", 1)

    async def scenario(post: Post, receiver: Receiver) -> None:
        for owner, count in (("mallory", 6), ("ann", 2), ("bob", 3)):
            for index in range(count):
                await post.finished(f"{owner}{index}", owner=owner)
        post.send()
        await eventually(lambda: _is_empty(post))
        rounds = [sorted(receiver.order()[first : first + 3]) for first in (0, 3)]
        assert rounds == [["ann0", "bob0", "mallory0"], ["ann1", "bob1", "mallory1"]]
        for owner in ("mallory", "ann", "bob"):
            own = [name for name in receiver.order() if name.startswith(owner)]
            assert own == sorted(own)

    at(scenario)


def test_a_webhook_whose_line_is_lost_comes_due_again(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.tasks.due_webhooks.IN_LINE_S", 0.3)

    async def scenario(post: Post, receiver: Receiver) -> None:
        await post.finished()
        assert await post.store("x").due_webhooks(5, 0, {}, 60) == []  # it waits in its line
        assert await post.redis.delete(f"{post.keys.webhooks}:of:ann", post.keys.webhook_owners) == 2
        post.send()
        await post.until(lambda delivery: delivery.delivered_at is not None)
        assert len(receiver.got) == 1

    at(scenario)


def test_the_pauses_grow_and_differ() -> None:
    assert 2.5 <= pause_s(1) <= 5
    assert 40 <= pause_s(5) <= 80
    assert pause_s(100) <= 3600
    assert len({pause_s(3) for _ in range(10)}) > 1
