"""The records and the queue, on a real Valkey."""

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from deployments.errors import NoFaceError
from serve_app.backends.embedded_valkey import ValkeyServer
from serve_app.backends.object_store import Results, StoreSettings
from serve_app.backends.redis import BrokerSettings, connect
from serve_app.errors import BrokerError, ConflictError, GivenUpError, OverloadedError
from serve_app.generation.envelope import envelope_of
from serve_app.generation.execution import failure_outcome
from serve_app.tasks.models import DEAD_TTL_S, IMAGE_FIELD, Claim, Outcome, Queued, Webhook
from serve_app.tasks.queue_snapshot import QueueReader, QueueSnapshot
from serve_app.tasks.store import TaskStore
from serve_app.tasks.stream import LEASE_MARGIN_S, NORMAL_IN_A_ROW, Message, TaskQueue
from tests.support.brokers import PROGRAMS, servers_of, valkey_server
from tests.support.tasks import AVATAR, LEASE_S, Office, queued, task

Scenario = Callable[[Office], Awaitable[None]]


@pytest.fixture(scope="module", params=PROGRAMS)
def broker_program(request: pytest.FixtureRequest) -> Iterator[str]:
    with servers_of(request.param) as program:
        yield program


@pytest.fixture
def at(valkey: Path) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def within() -> None:
            office = Office(valkey)
            async with office.redis, asyncio.timeout(30):
                await scenario(office)

        asyncio.run(within())

    return run


def test_a_task_goes_from_its_record_through_the_queue_to_its_outcome(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ingress, worker, queue = office.store("ingress"), office.store("worker"), office.queue("worker")
        assert await queue.take(1, 0.01) == []
        await ingress.create(task(), "PENDING")
        record = await ingress.get("a")
        assert record is not None
        assert record.task.request == task().request
        assert (record.status, record.is_leased, record.message_id) == ("PENDING", True, None)
        assert await worker.claim("a") is Claim.LEASED  # nobody works on it before it is queued
        assert await ingress.enqueue("a")

        (message,) = await queue.take(5, 1)
        assert message.task_id == "a"
        assert await worker.claim("a") is Claim.ACQUIRED
        await worker.note_image("a", 0, AVATAR)
        record = await ingress.get("a")
        assert record is not None
        assert (record.status, record.attempts, record.images_done, record.is_leased) == ("STARTED", 1, 1, True)

        outcome = failure_outcome(NoFaceError("no face found", faces_found=0))
        assert await worker.finish(record.task, "FAILED", outcome)
        await queue.remove(message)
        record = await ingress.get("a")
        assert record is not None
        assert (record.status, record.outcome, record.is_leased, record.finished) == ("FAILED", outcome, False, True)
        assert await queue.length() == 0

    at(scenario)


def test_an_unknown_task_is_unknown(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        assert await store.get("nothing") is None
        assert await store.claim("nothing") is Claim.FINISHED
        assert not await store.cancel("nothing")
        assert await store.statuses(["nothing"]) == [None]

    at(scenario)


def test_a_record_lives_until_its_time_to_live_after_the_deadline(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await store.create(task(), "STARTED")
        assert 3600 < await office.redis.ttl(office.keys.record("a")) <= 3660
        await store.finish(task(), "SUCCESS", Outcome())
        assert 3590 < await office.redis.ttl(office.keys.record("a")) <= 3600

    at(scenario)


def test_a_lease_that_runs_out_is_free_for_others_and_its_message_comes_again(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        await office.queue("dead").take(1, 0.01)
        await queued(office.store("ingress"), "a")
        (message,) = await office.queue("dead").take(1, 1)
        office.lease_s = 2.0
        dead, alive = office.store("dead"), office.store("alive")
        assert await dead.claim("a") is Claim.ACQUIRED
        assert await alive.claim("a") is Claim.LEASED

        queue, taken = office.queue("alive"), []
        while not taken:
            taken = await queue.take(1, 0.05)
        assert taken == [message]
        assert await alive.claim("a") is Claim.ACQUIRED
        assert await dead.renew(["a"]) == [False]
        assert not await dead.finish(task(), "SUCCESS", Outcome())
        record = await alive.get("a")
        assert record is not None
        assert (record.status, record.attempts) == ("STARTED", 2)

    at(scenario)


def test_a_message_that_is_touched_is_not_taken_over(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ours = office.queue("ours")
        await ours.take(1, 0.01)
        await queued(office.store("a"), "a")
        (message,) = await ours.take(1, 1)
        await office.run_out(message, "ours")
        await ours.touch([message])
        assert await office.queue("theirs").take(1, 0.01) == []
        await office.run_out(message, "ours")
        assert await office.queue("theirs").take(1, 0.01) == [message]

    at(scenario)


def test_a_dead_workers_message_is_found_behind_many_living_ones(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, living, dead = office.store("a"), office.queue("living"), office.queue("dead")
        await living.take(1, 0.01)
        for number in range(12):
            await queued(store, str(number), owner=f"owner{number}")
        assert len(await living.take(7, 1) + await living.take(4, 1)) == 11
        (lost,) = await dead.take(1, 1)
        assert lost.task_id == "11"
        await office.run_out(lost, "dead")
        found, queue = [], office.queue("new")
        while not found:
            found = await queue.take(1, 0.02)  # has room for one task only
        assert found == [lost]

    at(scenario)


def test_what_waits_in_the_queue_is_nobodys(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ingress, worker = office.store("ingress"), office.store("worker")
        await ingress.create(task(), "PENDING")
        await ingress.enqueue("a")
        assert await ingress.renew(["a"]) == [False]
        assert not await ingress.finish(task(), "CANCELLED", Outcome())
        assert await worker.claim("a") is Claim.ACQUIRED

    at(scenario)


def test_a_record_that_has_expired_is_not_begun_again(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        await office.store("a").note_image("gone", 0, AVATAR)
        assert await office.store("a").get("gone") is None

    at(scenario)


def test_a_record_of_a_newer_version_is_read(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await store.create(task(), "PENDING")
        newer = json.loads(task().model_dump_json()) | {"priority": "low"}
        await office.redis.hset(office.keys.record("a"), mapping={"task": json.dumps(newer), "eta_s": 3})
        record = await store.get("a")
        assert record is not None
        assert record.task.task_id == "a"

    at(scenario)


def test_a_key_does_not_outlive_the_record_that_it_stands_for(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, keyed = office.store("a"), task(key="k")
        await store.create(keyed, "STARTED", "body")
        await store.finish(keyed, "SUCCESS", Outcome())
        key = office.keys.idempotency(keyed.idempotency or "")
        assert await office.redis.ttl(key) <= await office.redis.ttl(office.keys.record("a"))
        assert await store.knows(keyed)
        assert not await store.knows(task(key="another"))

    at(scenario)


def test_more_calls_than_connections_wait_for_each_other(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await store.create(task(), "STARTED")
        records = await asyncio.gather(*(store.get("a") for _ in range(300)))
        assert all(record is not None for record in records)

    at(scenario)


def test_a_broker_that_hangs_is_given_up_soon(
    tmp_path: Path, broker_program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.backends.redis.ANSWER_S", 0.3)

    async def scenario(server: ValkeyServer) -> None:
        async with connect(BrokerSettings(), tmp_path) as redis:
            store = TaskStore(redis, "a", 60)
            await store.create(task(), "STARTED")
            os.kill(server.pid or 0, signal.SIGSTOP)
            async with asyncio.timeout(10):  # its own tries, one inside the other, would last longer
                with pytest.raises(BrokerError):
                    await store.get("a")
            os.kill(server.pid or 0, signal.SIGCONT)
            assert await store.get("a") is not None

    with valkey_server(tmp_path) as server:
        try:
            asyncio.run(scenario(server))
        finally:
            os.kill(server.pid or 0, signal.SIGCONT)


def test_while_it_is_renewed_a_lease_does_not_run_out(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ours, theirs = office.store("ours"), office.store("theirs")
        await ours.create(task(), "STARTED")
        for left_ms in (20_000, 1):
            await office.redis.pexpire(office.keys.lease("a"), left_ms)
            assert await ours.renew(["a"]) == [True]
            assert await ours.lease_left_s("a") > LEASE_S / 2
            assert await theirs.claim("a") is Claim.LEASED

    at(scenario)


def test_what_was_cancelled_stays_cancelled_and_leaves_the_queue(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await store.create(task(), "PENDING")
        await store.enqueue("a")
        assert await store.cancel("a")
        assert not await store.cancel("a")
        assert await store.claim("a") is Claim.FINISHED
        assert not await store.finish(task(), "SUCCESS", Outcome())
        assert await queue.length() == 0
        await store.create(task("b"), "PENDING")
        await store.cancel("b")
        assert not await store.enqueue("b")  # cancelled while its photo was fetched
        assert await queue.length() == 0

    at(scenario)


def test_of_a_cancelled_task_no_image_stays_however_many_it_had(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await store.create(task(), "STARTED")
        for index in (0, 7, 8, 99):
            await store.note_image("a", index, AVATAR)
        assert await store.cancel("a")
        fields = await office.redis.hkeys(office.keys.record("a"))
        assert [field for field in fields if field.startswith(IMAGE_FIELD)] == []

    at(scenario)


def test_what_is_handed_back_is_the_next_ones(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        await store.create(task(), "PENDING")
        await store.enqueue("a")
        (message,) = await queue.take(1, 1)
        await store.claim("a")
        assert await store.hand_back("a")
        await queue.remove(message)
        record = await store.get("a")
        assert record is not None
        assert (record.status, record.attempts, record.is_leased) == ("PENDING", 0, False)
        (again,) = await office.queue("b").take(1, 1)
        assert again.task_id == "a"
        assert again.message_id == record.message_id != message.message_id

    at(scenario)


def test_the_position_counts_those_ahead(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        for name in "abc":
            await store.create(task(name, owner=name), "PENDING")
            assert await store.enqueue(name) == await store.get(name)
        assert [await position(office, name) for name in "abc"] == [1, 2, 3]  # before any worker was there
        await queue.take(1, 0.01)
        assert len(await queue.take(1, 1)) == 1
        assert [await position(office, name) for name in "abc"] == [0, 1, 2]
        await store.cancel("b")
        assert await position(office, "c") == 1

    at(scenario)


def test_tasks_of_low_priority_wait_for_the_others_but_for_a_turn_now_and_then(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        for number in range(3):
            await queued(store, f"low{number}", priority="low")
        for number in range(2 * NORMAL_IN_A_ROW + 1):
            await queued(store, f"normal{number}", owner=f"owner{number}")
        places = {name: await position(office, name) for name in ("low0", "low1", "low2", "normal0", "normal7")}
        order = []
        while messages := await queue.take(1, 0.01):
            order += [message.task_id for message in messages]
        assert [order.index(f"low{number}") for number in range(3)] == [7, 15, 17]
        assert [name for name in order if name.startswith("normal")] == [f"normal{number}" for number in range(15)]
        assert places == {name: order.index(name) + 1 for name in places}
        assert await position(office, "low2") == 0

    at(scenario)


async def snapshot(office: Office, name: str) -> QueueSnapshot:
    """The queue as it is for a task."""
    record = await office.store("x").get(name)
    assert record is not None
    assert record.message_id is not None
    message = Message(record.message_id, name, record.priority)
    return await QueueReader(office.redis).snapshot(record.task.owner, message)


async def position(office: Office, name: str) -> int:
    record = await office.store("x").get(name)
    assert record is not None
    return (await snapshot(office, name)).position(record.priority)


async def queued_of(office: Office, owner: str) -> Queued:
    return (await QueueReader(office.redis).snapshot(owner)).queued


async def worked_off(office: Office, store: TaskStore) -> list[str]:
    """All that waits, in the order in which one worker does it."""
    queue, order = office.queue("a"), []
    while messages := await queue.take(1, 0.01):
        for message in messages:
            assert await store.claim(message.task_id) is Claim.ACQUIRED
            await store.finish(task(message.task_id), "SUCCESS", Outcome())
            await queue.remove(message)
            order.append(message.task_id)
    return order


def test_an_owner_with_many_tasks_waiting_keeps_nobody_elses_back(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await office.queue("a").take(1, 0.01)
        for number in range(20):
            await queued(store, f"greedy{number:02}", owner="greedy")
        for number in range(3):
            await queued(store, f"modest{number}", owner="modest")
        assert await queued_of(office, "greedy") == (20, "low")
        assert await position(office, "modest0") == 2
        assert [(await snapshot(office, f"modest{number}")).own_ahead for number in range(3)] == [None, 0, 1]
        order = await worked_off(office, store)
        assert order[:6] == ["greedy00", "modest0", "greedy01", "modest1", "greedy02", "modest2"]  # they take turns
        assert sorted(order[6:]) == [f"greedy{number:02}" for number in range(3, 20)]
        assert await queued_of(office, "greedy") == (0, "normal")
        assert await office.queue("a").length() == 0

    at(scenario)


def test_a_task_that_is_cancelled_in_line_lets_its_owners_next_one_in(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await office.queue("a").take(1, 0.01)
        for name in "abc":
            await queued(store, name)
        await queued(store, "x", owner="bob")
        await store.cancel("b")
        await store.cancel("a")
        assert [message.task_id for message in await office.queue("a").take(5, 0.01)] == ["x", "c"]

    at(scenario)


def test_what_a_worker_hands_back_has_had_its_turn(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        for name in "abc":
            await queued(store, name)
        (message,) = await queue.take(1, 0.01)
        await store.claim("a")
        assert await store.hand_back("a")
        await queue.remove(message)
        assert sorted(await worked_off(office, store)) == ["a", "b", "c"]

    at(scenario)


def test_a_record_that_was_lost_in_line_holds_nobody_up(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        await queued(store, "lost")
        await office.redis.delete(office.keys.record("lost"))
        await queued(store, "next")
        record = await store.get("next")
        assert record is not None
        assert record.priority == "normal"

    at(scenario)


def test_a_worker_with_room_for_many_takes_no_more_than_that(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        for number in range(20):
            await queued(store, f"low{number}", priority="low")
            await queued(store, f"normal{number}", owner=f"owner{number}")
        taken = []
        while messages := await queue.take(3, 0.01):
            assert len(messages) <= 3
            taken += [message.task_id for message in messages]
        assert sorted(taken) == sorted(f"{kind}{number}" for kind in ("low", "normal") for number in range(20))

    at(scenario)


def test_a_task_of_low_priority_is_taken_over_and_handed_back_like_others(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        await queued(store, "a", priority="low")
        (message,) = await office.queue("dead").take(1, 0.01)
        await office.run_out(message, "dead")
        assert await office.queue("a").take(1, 0.05) == [message]
        await store.claim("a")
        assert await store.hand_back("a")
        await queue.remove(message)
        (again,) = await queue.take(1, 0.05)
        assert (again.task_id, again.priority) == ("a", "low")
        assert await store.cancel("a")
        assert await queue.length() == 0

    at(scenario)


def test_a_dead_task_is_queued_again_once_as_if_it_had_come_now(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store, queue = office.store("a"), office.queue("a")
        await queue.take(1, 0.01)
        await store.create(task().model_copy(update={"submitted_at": 1.0}), "STARTED")
        await store.note_image("a", 0, AVATAR)
        await store.finish(task(), "FAILED", failure_outcome(GivenUpError("It kills.")), dead=True)
        assert await office.redis.ttl(office.keys.record("a")) > DEAD_TTL_S
        record = await store.get("a")
        assert record is not None
        answers = await asyncio.gather(store.requeue(record), store.requeue(record))
        assert sorted(answers) == [False, True]
        record = await store.get("a")
        assert record is not None
        assert (record.status, record.attempts, record.outcome, record.finished_at) == ("PENDING", 0, Outcome(), None)
        assert record.avatars == {0: AVATAR}
        assert record.task.submitted_at > time.time() - 30
        assert [message.task_id for message in await queue.take(5, 0.01)] == ["a"]

    at(scenario)


def test_records_are_counted_by_their_status(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        for name in "abc":
            await store.create(task(name), "STARTED")
        await store.cancel("b")
        assert await store.counts() == {"STARTED": 2, "CANCELLED": 1}

    at(scenario)


def test_one_idempotency_key_is_one_task(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        ids = await asyncio.gather(*(store.create(task(name, key="k"), "PENDING", "body") for name in "abcdef"))
        assert len(set(ids)) == 1
        assert [name for name in "abcdef" if await store.get(name) is not None] == [ids[0]]
        with pytest.raises(ConflictError):
            await store.create(task("g", key="k"), "PENDING", "another body")
        assert await store.create(task("h", key="l"), "PENDING", "another body") == "h"

    at(scenario)


def test_a_failure_of_ours_frees_the_key_and_one_of_the_clients_does_not(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        store = office.store("a")
        theirs, ours = task("theirs", key="theirs"), task("ours", key="ours")
        await store.create(theirs, "STARTED", "body")
        await store.finish(theirs, "FAILED", failure_outcome(NoFaceError("no face found")))
        assert await store.create(task("again", key="theirs"), "STARTED", "body") == "theirs"
        await store.create(ours, "STARTED", "body")
        await store.finish(ours, "FAILED", failure_outcome(OverloadedError("full")))
        assert await store.create(task("again", key="ours"), "STARTED", "body") == "again"

    at(scenario)


NO_FACE = failure_outcome(NoFaceError("no face found"))
LONG = "\U0001f600" * 2000


async def failed(store: TaskStore, name: str, key: str | None = None, **fields: Any) -> None:
    """A task that fails before any queue had it, so that its request is answered with the failure."""
    failing = task(name, key, **fields)
    await store.create(failing, "STARTED", "body")
    await store.finish(failing, "FAILED", NO_FACE)


def test_a_failure_that_was_an_answer_is_kept_briefly_and_without_long_texts(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        office.ttl_s = 24 * 3600
        store = office.store("a")
        await failed(store, "failed", "k", prompt=LONG, negative_prompt=LONG, seed=5)
        await store.create(task("cancelled", "c", prompt=LONG), "STARTED", "body")
        await store.cancel("cancelled")
        await store.create(task("made", prompt=LONG), "STARTED")
        await store.finish(task("made", prompt=LONG), "SUCCESS", Outcome(avatars=(AVATAR,)))
        for name in ("failed", "cancelled"):
            record = await store.get(name)
            assert record is not None
            assert record.task.request.prompt == LONG[:500] + "…"
            assert await office.redis.ttl(office.keys.record(name)) <= 3600
            assert await office.redis.memory_usage(office.keys.record(name), samples=0) < 8192
        record = await store.get("failed")
        assert record is not None
        assert (record.outcome, record.task.request.seed) == (NO_FACE, 5)
        for key in ("k", "c"):
            assert await office.redis.ttl(office.keys.idempotency(task(key=key).idempotency or "")) <= 3600
        made = await store.get("made")
        assert made is not None
        assert made.task.request.prompt == LONG
        assert await office.redis.ttl(office.keys.record("made")) > 3600

    at(scenario)


def test_a_failure_of_a_queued_task_is_kept_whole_for_its_client(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        office.ttl_s = 24 * 3600
        store = office.store("a")
        for name in ("failed", "cancelled"):
            await queued(store, name, prompt=LONG)
        await store.claim("failed")
        await store.finish(task("failed", prompt=LONG), "FAILED", NO_FACE)
        await store.cancel("cancelled")
        for name in ("failed", "cancelled"):
            record = await store.get(name)
            assert record is not None
            assert record.task.request.prompt == LONG
            assert await office.redis.ttl(office.keys.record(name)) > 3600

    at(scenario)


def test_of_one_owners_failures_the_newest_are_kept_and_all_that_was_made(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.tasks.store.MAX_FAILURES", 3)

    async def scenario(office: Office) -> None:
        store = office.store("a")
        await store.create(task("made"), "STARTED")
        await store.finish(task("made"), "SUCCESS", Outcome())
        await failed(store, "others", owner="bob")
        for number in range(5):
            await failed(store, f"answered{number}", f"key{number}")
            await queued(store, f"queued{number}")
            await store.cancel(f"queued{number}")
        kept = [f"{kind}{number}" for kind in ("answered", "queued") for number in range(2, 5)]
        dropped = [f"{kind}{number}" for kind in ("answered", "queued") for number in range(2)]
        assert all([await store.get(name) for name in ["made", "others", *kept]])
        assert not any([await store.get(name) for name in dropped])
        assert await store.create(task("again", key="key4"), "STARTED", "body") == "answered4"
        assert not await store.knows(task(key="key0"))
        assert await store.create(task("again", key="key0"), "STARTED", "body") == "again"

    at(scenario)


def test_a_failure_whose_webhook_is_due_is_kept_for_it(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.tasks.store.MAX_FAILURES", 1)

    async def scenario(office: Office) -> None:
        store = office.store("a")
        webhook = Webhook(url="https://example.org/hook", base_url="http://service")
        for name in ("first", "second", "third"):
            await store.create(task(name).model_copy(update={"webhook": webhook}), "PENDING")
            await store.enqueue(name)
            await store.cancel(name)
        records = [await store.get(name) for name in ("first", "second", "third")]
        assert [record.task.webhook for record in records if record] == [webhook] * 3

    at(scenario)


def test_a_dead_letter_is_no_failure_that_is_dropped(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.tasks.store.MAX_FAILURES", 1)

    async def scenario(office: Office) -> None:
        store = office.store("a")
        for name in ("one", "two", "three"):
            await queued(store, name, prompt=LONG)
            await store.claim(name)
            await store.finish(task(name), "FAILED", NO_FACE, dead=True)
        assert await store.dead() == ["one", "two", "three"]
        for name in ("one", "two", "three"):
            record = await store.get(name)
            assert record is not None
            assert record.task.request.prompt == LONG

    at(scenario)


def test_a_broker_that_is_away_is_an_overload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.backends.redis.TRIES", 0)

    async def scenario() -> None:
        settings = BrokerSettings(url="unix:///nothing/here.sock")
        async with connect(settings, tmp_path) as redis:
            store, queue = TaskStore(redis, "a", 60), TaskQueue(redis, "a")
            for call in (store.get("a"), store.create(task(), "PENDING"), store.renew(["a"]), queue.take(1, 0.1)):
                with pytest.raises(BrokerError) as caught:
                    await call
                assert "here.sock" not in str(caught.value)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "tasks", [pytest.param(1000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)]
)
def test_thousands_of_finished_tasks_need_little_memory_and_reading_one_is_quick(tmp_path: Path, tasks: int) -> None:
    """Prints what they need."""
    at_once = 16
    results = Results.open(StoreSettings(), data_dir=tmp_path, signing_key=b"key", ttl_s=60)

    async def one(office: Office, number: int) -> None:
        store, name = office.store("w"), f"{number:032x}"
        await queued(store, name, prompt="a portrait, " * 20)
        await store.claim(name)
        for index in range(2):
            await store.note_image(name, index, AVATAR)
        await store.finish(task(name), "SUCCESS", Outcome(avatars=(AVATAR, AVATAR)))

    async def p99_ms(office: Office) -> float:
        """Of a task's state, from its id to its envelope."""
        times_s, store = [], office.store("x")
        for number in range(1000):
            began = time.perf_counter()
            record = await store.get(f"{number:032x}")
            assert record is not None
            assert (await envelope_of(record, results, "http://service")).output["result"]
            times_s.append(time.perf_counter() - began)
        return sorted(times_s)[990] * 1000

    async def work(office: Office) -> tuple[float, list[float]]:
        queue = office.queue("w")
        await queue.take(1, 0.01)
        before = await _used_bytes(office)
        for first in range(0, tasks, at_once):
            await asyncio.gather(*(one(office, number) for number in range(first, min(first + at_once, tasks))))
            while messages := await queue.take(at_once, 0.001):
                for message in messages:
                    await queue.remove(message)
        used = (await _used_bytes(office) - before) / tasks
        assert await queue.length() == 0
        assert await office.redis.zcard(office.keys.open) == 0
        assert await office.redis.xlen(office.keys.changes) < 2000
        return used, [await p99_ms(office) for _ in range(3)]

    async def within() -> tuple[float, list[float]]:
        office = Office(tmp_path, lease_s=600)
        async with office.redis:
            return await work(office)

    with valkey_server(tmp_path, appendfsync="everysec"):
        used, rounds_ms = asyncio.run(within())
    print(f"\n{tasks} finished tasks: {used:.0f} bytes each; its state: p99 {min(rounds_ms):.2f} ms (of {rounds_ms})")
    assert used < 4096
    if tasks == 10_000:  # by hand, on a machine that does nothing else
        assert min(rounds_ms) < 5


async def _used_bytes(office: Office) -> int:
    memory: Any = await office.redis.info("memory")
    return int(memory["used_memory"])


class TasksInAnyOrder(RuleBasedStateMachine):
    """Ingresses and workers in any order of steps, deaths among them: no task is lost, none ends twice."""

    data_dir: Path
    loop: asyncio.AbstractEventLoop
    tasks = Bundle("tasks")
    working = Bundle("working")

    def __init__(self) -> None:
        super().__init__()
        self.office = Office(self.data_dir, lease_s=3600)  # leases end when a rule says so
        self.names = itertools.count()
        self.ended: dict[str, str] = {}
        self.queued: set[str] = set()

    def do(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))

    @rule(target=tasks, priority=st.sampled_from(["normal", "low"]), owner=st.sampled_from(["ann", "bob"]))
    def submit(self, priority: str, owner: str) -> str:
        name = f"task{next(self.names)}"
        store = self.office.store("ingress")
        self.do(store.create(task(name, owner=owner, priority=priority), "PENDING"))
        assert self.do(store.enqueue(name))
        self.queued.add(name)
        return name

    @rule(target=working, worker=st.sampled_from("ABC"))
    def take(self, worker: str) -> tuple[str, Message] | None:
        """A worker takes the next message, or one that a dead one left."""
        # Every pending message counts as left by a dead worker.
        queue = TaskQueue(self.office.redis, worker, lease_s=-LEASE_MARGIN_S)
        for message in self.do(queue.take(1, 0.001)) or self.do(queue.take(1, 0.001)):
            claim = self.do(self.office.store(worker).claim(message.task_id))
            if claim is Claim.FINISHED:
                assert message.task_id in self.ended
                self.do(queue.remove(message))
            elif claim is Claim.ACQUIRED:
                assert message.task_id not in self.ended
                return worker, message
        return None

    @rule(work=consumes(working))
    def finish(self, work: tuple[str, Message] | None) -> None:
        if work is None:
            return
        worker, message = work
        if self.do(self.office.store(worker).finish(task(message.task_id), "SUCCESS", Outcome())):
            assert message.task_id not in self.ended
            self.ended[message.task_id] = "SUCCESS"
        self.do(TaskQueue(self.office.redis, worker).remove(message))

    @rule(work=consumes(working))
    def die(self, work: tuple[str, Message] | None) -> None:
        if work is not None:
            self.do(self.office.redis.delete(self.office.keys.lease(work[1].task_id)))

    @rule(work=consumes(working))
    def hand_back(self, work: tuple[str, Message] | None) -> None:
        if work is not None:
            worker, message = work
            self.do(self.office.store(worker).hand_back(message.task_id))
            self.do(TaskQueue(self.office.redis, worker).remove(message))

    @rule(name=tasks)
    def cancel(self, name: str) -> None:
        if self.do(self.office.store("ingress").cancel(name)):
            assert name not in self.ended
            self.ended[name] = "CANCELLED"

    @invariant()
    def every_task_has_ended_as_it_did_or_is_in_the_queue(self) -> None:
        streams = (self.office.keys.queue, self.office.keys.low_queue)
        entries = [entry for stream in streams for entry in self.do(self.office.redis.xrange(stream))]
        in_queue = {fields["task_id"] for _message_id, fields in entries}
        for name in self.queued:
            (status,) = self.do(self.office.store("x").statuses([name]))
            assert status == self.ended.get(name, status)
            assert name in self.ended or (name in in_queue and status in ("PENDING", "STARTED"))


def test_no_task_is_lost_and_none_ends_twice_in_any_order_of_events(valkey: Path) -> None:
    loop = asyncio.new_event_loop()
    machine = type("Machine", (TasksInAnyOrder,), {"data_dir": valkey, "loop": loop})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=HealthCheck
            ),
        )
    finally:
        loop.close()
