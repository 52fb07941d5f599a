"""Who is let in, for what and how often. The broker is real."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.auth.access import Access
from serve_app.auth.failed_attempts import PER_MINUTE, FailedAttempts
from serve_app.auth.image_quota import ImageQuota
from serve_app.auth.owner_use import FLOODING_S, KEPT_S, MAX_REFUSED_S, OwnerUse
from serve_app.auth.rate_limit import Rate
from serve_app.auth.tokens import Limits, OwnToken, TokenGrant, TokenSettings, TokenStore
from serve_app.auth.usage import UsageBook, last_used, usage_of
from serve_app.backends.redis import BrokerSettings, Redis, connect
from serve_app.backends.secrets import renew_token, sha256
from serve_app.errors import BrokerError, ForbiddenError, RateLimitError, UnauthorizedError
from serve_app.generation.admission import ConcurrencySlots
from serve_app.tasks.keys import TaskKeys
from serve_app.tasks.store import TaskStore
from tests.support.polling import eventually
from tests.support.tasks import AVATAR, task

PREFIXES = itertools.count()
SETTINGS = TokenSettings()


class Office:
    """The tokens of a service, under keys of its own. `gate` is one ingress replica's."""

    def __init__(self, redis: Redis, data_dir: Path) -> None:
        self.redis = redis
        self.data_dir = data_dir
        self.keys = TaskKeys(redis.prefix)
        self.store = TokenStore(redis)
        self.usage = UsageBook(redis, days=90)
        self.use = OwnerUse(redis)

    def gate(self, settings: TokenSettings = SETTINGS, own: OwnToken | None = None) -> Access:
        return Access(self.redis, settings, self.usage, self.use, own)

    def cut_off(self) -> Redis:
        return connect(
            BrokerSettings(url="unix:///nothing/here.sock", timeout_s=1, prefix=self.redis.prefix), self.data_dir
        )


Scenario = Callable[[Office], Awaitable[None]]


@pytest.fixture
def at(valkey: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    monkeypatch.setattr("serve_app.auth.access.REFUSAL_DELAY_S", 0)
    monkeypatch.setattr("serve_app.backends.redis.TRIES", 0)  # what is cut off stays so

    def run(scenario: Scenario) -> None:
        async def within() -> None:
            async with connect(BrokerSettings(prefix=f"access{next(PREFIXES)}"), valkey) as redis, asyncio.timeout(30):
                office = Office(redis, valkey)
                await scenario(office)
                await office.usage.close()
                await office.use.close()

        asyncio.run(within())

    return run


def test_the_broker_holds_digests_and_no_token(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        secrets = [await office.store.add(TokenGrant(name)) for name in ("ann", "bob")]
        kept = await office.redis.hgetall(office.redis.key("tokens"))
        assert set(kept) == {sha256(secret)[:16] for secret in secrets}
        assert not any(secret in value for secret in secrets for value in kept.values())
        assert all(len(secret) >= 43 for secret in secrets)  # 256 bits

    at(scenario)


def test_a_token_is_let_in_as_its_owner_and_nothing_else_is(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann, bob = [await office.store.add(TokenGrant(name)) for name in ("ann", "bob")]
        gate = office.gate()
        seen = (await gate.authenticate(f"Bearer {ann}")).token
        assert (seen.name, seen.owner) == ("ann", sha256(ann)[:16])
        assert (await gate.authenticate(f"bearer  {bob} ")).token.name == "bob"
        wrong = [
            None,
            "",
            "Bearer",
            "Bearer ",
            f"Basic {ann}",
            ann,
            "Bearer \udcff",
            f"Bearer {ann[:-1]}",
            f"{ann} {ann}",
        ]
        for header in wrong:
            with pytest.raises(UnauthorizedError):
                await gate.authenticate(header)

    at(scenario)


def test_a_token_whose_digest_only_begins_alike_is_not_let_in(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann = sha256(await office.store.add(TokenGrant("ann")))
        assert await office.store.find(ann) is not None
        assert await office.store.find(ann[:-1] + ("0" if ann[-1] != "0" else "1")) is None

    at(scenario)


def test_two_tokens_have_two_names(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        await office.store.add(TokenGrant("ann"))
        with pytest.raises(ValueError, match="ann"):
            await office.store.add(TokenGrant("ann"))

    at(scenario)


def test_a_token_made_for_another_shares_its_tasks(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        first = await office.store.add(TokenGrant("ann"))
        second = await office.store.add(TokenGrant("ann's new one", owner=sha256(first)[:16]))
        gate = office.gate()
        assert (await gate.authenticate(f"Bearer {first}")).token.owner == (
            await gate.authenticate(f"Bearer {second}")
        ).token.owner

    at(scenario)


def test_a_token_may_do_what_it_was_made_for(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        reader = f"Bearer {await office.store.add(TokenGrant('reader', rights=('read',)))}"
        gate = office.gate()
        assert await gate.authenticate(reader, ["read"])
        assert await gate.authenticate(reader)
        with pytest.raises(ForbiddenError) as refused:
            await gate.authenticate(reader, ["create"])
        assert refused.value.data["rights"] == ["read"]

    at(scenario)


def test_an_expired_token_is_not_let_in(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        gone = await office.store.add(TokenGrant("gone", expires_at=time.time() - 1))
        there = await office.store.add(TokenGrant("there", expires_at=time.time() + 60))
        gate = office.gate()
        assert await gate.authenticate(f"Bearer {there}")
        with pytest.raises(UnauthorizedError):
            await gate.authenticate(f"Bearer {gone}")

    at(scenario)


def test_a_revoked_token_stops_counting_without_a_restart(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        secret = await office.store.add(TokenGrant("ann"))
        gate = office.gate(TokenSettings(reads_per_second=0))
        token = (await gate.authenticate(f"Bearer {secret}")).token
        assert await office.store.revoke(token)
        assert not await office.store.revoke(token)

        async def is_out() -> bool:
            try:
                return not await gate.authenticate(f"Bearer {secret}")
            except UnauthorizedError:
                return True

        await eventually(is_out)

    at(scenario)


def test_the_data_directorys_token_may_do_everything_and_can_be_renewed(
    at: Callable[[Scenario], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        gate = office.gate(TokenSettings(requests_per_minute=1), OwnToken(tmp_path))
        before = (tmp_path / "token").read_text().strip()
        for _ in range(3):
            authenticated = await gate.authenticate(f"Bearer {before}", ["create", "read", "cancel"])
            assert (authenticated.token.name, authenticated.quota) == ("owner", None)
        monkeypatch.setattr("serve_app.auth.tokens.FRESH_S", 0)
        renew_token(tmp_path)
        assert await gate.authenticate(f"Bearer {(tmp_path / 'token').read_text().strip()}")
        with pytest.raises(UnauthorizedError):
            await gate.authenticate(f"Bearer {before}")

    at(scenario)


def test_the_data_directorys_token_needs_its_digest_only(at: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(office: Office) -> None:
        (tmp_path / "token").write_text("my-own\n")
        gate = office.gate(own=OwnToken(tmp_path))
        (tmp_path / "token").unlink()
        assert await gate.authenticate("Bearer my-own")
        with pytest.raises(UnauthorizedError):
            await gate.authenticate("Bearer ")

    at(scenario)


def test_a_token_that_was_seen_counts_while_the_broker_is_away(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        seen, unseen = [await office.store.add(TokenGrant(name)) for name in ("seen", "unseen")]
        gate = office.gate()
        await gate.authenticate(f"Bearer {seen}", ["create"])
        monkeypatch.setattr("serve_app.auth.tokens.FRESH_S", 0)
        async with office.cut_off() as away:
            away.breaker = office.redis.breaker
            monkeypatch.setattr(gate._tokens, "_redis", away)
            assert (await gate.authenticate(f"Bearer {seen}", ["create"])).quota is None  # nobody is held to a rate
            with pytest.raises(BrokerError):
                await gate.authenticate(f"Bearer {unseen}")

    at(scenario)


def test_more_requests_than_a_token_may_send_are_refused_by_every_replica(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann, bob = [f"Bearer {await office.store.add(TokenGrant(name))}" for name in ("ann", "bob")]
        one, other = (
            office.gate(TokenSettings(requests_per_minute=3)),
            office.gate(TokenSettings(requests_per_minute=3)),
        )
        quotas = [(await gate.authenticate(ann, ["create"])).quota for gate in (one, other, one)]
        assert [quota.remaining for quota in quotas if quota] == [2, 1, 0]
        for gate in (one, one, other):
            with pytest.raises(RateLimitError) as refused:
                await gate.authenticate(ann, ["create"])
            assert 1 <= refused.value.retry_after_s <= 60
            assert refused.value.headers["RateLimit-Limit"] == "3"
        assert await one.authenticate(bob, ["create"])
        assert await one.authenticate(ann, ["read"])  # a budget of its own

    at(scenario)


def test_a_tokens_own_rate_goes_before_the_settings(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        slow = f"Bearer {await office.store.add(TokenGrant('slow', limits=Limits(requests_per_minute=1)))}"
        free = f"Bearer {await office.store.add(TokenGrant('free', limits=Limits(requests_per_minute=0)))}"
        gate = office.gate(TokenSettings(requests_per_minute=2))
        await gate.authenticate(slow, ["create"])
        with pytest.raises(RateLimitError):
            await gate.authenticate(slow, ["create"])
        for _ in range(4):
            assert (await gate.authenticate(free, ["create"])).quota is None

    at(scenario)


def test_reading_has_a_limit_too(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann = f"Bearer {await office.store.add(TokenGrant('ann'))}"
        gate = office.gate(TokenSettings(reads_per_second=2))
        for _ in range(2):
            await gate.authenticate(ann, ["read"])
        with pytest.raises(RateLimitError):
            await gate.authenticate(ann, ["read"])
        assert await gate.authenticate(ann, ["create"])

    at(scenario)


def test_who_floods_has_to_wait_for_its_refusals_but_few_at_a_time(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.auth.access.REFUSAL_DELAY_S", 3600)
    monkeypatch.setattr("serve_app.auth.access.MAX_DELAYED", 2)

    async def scenario(office: Office) -> None:
        ann = f"Bearer {await office.store.add(TokenGrant('ann'))}"
        gate = office.gate(TokenSettings(requests_per_minute=1))
        await gate.authenticate(ann, ["create"])
        refusals = [asyncio.create_task(gate.authenticate(ann, ["create"])) for _ in range(3)]
        done, waiting = await asyncio.wait(refusals, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, 2)
        for refusal in refusals:
            refusal.cancel()
        results = await asyncio.gather(*refusals, return_exceptions=True)
        assert sum(isinstance(result, RateLimitError) for result in results) == 1

    at(scenario)


def test_images_at_once_count_over_all_replicas_and_their_places_come_free(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        one, other = [ConcurrencySlots(office.redis, 5) for _ in range(2)]
        async with one.hold("ann", "a", 3, 4), other.hold("ann", "b", 1, 4), other.hold("bob", "c", 4, 4):
            with pytest.raises(RateLimitError) as refused:
                async with one.hold("ann", "d", 1, 4):
                    pass
            assert refused.value.retry_after_s == 5
            async with one.hold("ann", "e", 8, 0):  # without a limit
                pass
        async with one.hold("ann", "d", 4, 4):
            pass
        with pytest.raises(ForbiddenError):  # however long it waits
            async with one.hold("ann", "d", 5, 4):
                pass

    at(scenario)


def test_the_places_of_a_dead_replica_go_with_the_leases_of_its_tasks(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        monkeypatch.setattr("serve_app.generation.admission.LEASE_S", -1)  # a place is as good as its lease at once
        places = ConcurrencySlots(office.redis, 5)
        store = TaskStore(office.redis, "ingress", 60, lease_s=60)
        await store.create(task("a"), "STARTED")

        async def take(name: str) -> None:
            async with places.hold("ann", name, 1, 1):
                pass

        async with places.hold("ann", "a", 1, 1):
            with pytest.raises(RateLimitError):
                await take("b")
            await office.redis.delete(office.keys.lease("a"))  # as it goes when nobody renews it
            await take("b")

    at(scenario)


def test_one_call_finds_out_for_a_whole_process_that_the_broker_is_away(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(office: Office) -> None:
        calls: list[object] = []
        async with office.cut_off() as away:
            execute = away.execute_command

            async def counted(*command: Any, **options: Any) -> Any:
                calls.append(command)
                return await execute(*command, **options)

            monkeypatch.setattr(away, "execute_command", counted)
            slots, quota, gate = (
                ConcurrencySlots(away, 5),
                ImageQuota(away),
                Access(away, SETTINGS, office.usage, OwnerUse(away), None),
            )
            for _ in range(2):
                async with slots.hold("ann", "a", 1, 1), quota.take("ann", 1, 1):
                    assert await gate.use.shared_s("ann") == 0
                    assert await gate._rates.hit("ann", Rate(1, 60)) is None
        assert len(calls) == 1
        said = [record.getMessage() for record in caplog.records if "the broker fails" in record.getMessage()]
        consequences = (
            "concurrency per token is not",
            "images a day are not",
            "each process knows only",
            "rate limits are",
        )
        assert [sum(what in line for line in said) for what in consequences] == [1, 1, 1, 1]

    at(scenario)


def test_while_the_broker_is_away_nobody_is_refused_for_its_images(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        async with office.cut_off() as away:
            places = ConcurrencySlots(away, 5)
            async with places.hold("ann", "a", 1, 1), places.hold("ann", "b", 1, 1):
                pass

    at(scenario)


def test_what_a_token_used_is_kept_by_day(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann = await office.store.add(TokenGrant("ann"))
        gate, name = office.gate(TokenSettings(requests_per_minute=2)), sha256(ann)[:16]
        for _ in range(2):
            await gate.authenticate(f"Bearer {ann}", ["create"])
        with pytest.raises(RateLimitError):
            await gate.authenticate(f"Bearer {ann}", ["create"])
        office.usage.made(name, [AVATAR, AVATAR])
        await office.usage.close()
        used: Any = await usage_of(office.redis, name, 1)
        assert used == (3, 1, 2, 2 * AVATAR.diffusion_s)
        assert await usage_of(office.redis, name, 30) == used
        assert abs((await last_used(office.redis))[name] - time.time()) < 60
        [key] = [key async for key in office.redis.scan_iter(office.redis.key("usage", name, "*"))]
        assert 89 * 86400 < await office.redis.ttl(key) <= 90 * 86400

    at(scenario)


def test_counts_wait_for_a_broker_that_is_away(at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(office: Office) -> None:
        async with office.cut_off() as away:
            monkeypatch.setattr(office.usage, "_redis", away)
            office.usage.request("ann")
            await office.usage._write()
        monkeypatch.setattr(office.usage, "_redis", office.redis)
        await office.usage._write()
        await office.usage._write()
        assert (await usage_of(office.redis, "ann", 1)).requests == 1

    at(scenario)


def test_refused_requests_are_use_of_their_owner_in_every_process(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        ann = f"Bearer {await office.store.add(TokenGrant('ann'))}"
        gate, elsewhere = office.gate(TokenSettings(requests_per_minute=1)), OwnerUse(office.redis)
        owner = (await gate.authenticate(ann, ["create"])).token.owner
        assert await elsewhere.shared_s(owner) == 0
        for refusals in range(1, 4):
            with pytest.raises(RateLimitError):
                await gate.authenticate(ann, ["create"])
            assert office.use.used_s(owner) == pytest.approx(refusals, rel=0.1)  # seconds decay meanwhile
        await office.use.shared_s(owner)
        assert await elsewhere.shared_s(owner) == pytest.approx(3, rel=0.1)
        assert await elsewhere.shared_s("another") == 0
        assert 0 < await office.redis.ttl(office.redis.key("use", owner)) <= KEPT_S  # and it is forgotten

    at(scenario)


def test_use_is_shared_without_being_asked_for(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        elsewhere = OwnerUse(office.redis)
        office.use.charge("ann", 5.0)
        office.use.charge("ann", 5.0)

        async def is_known() -> bool:
            return await elsewhere.shared_s("ann") > 9

        await eventually(is_known)
        assert office.use.used_s("ann") == pytest.approx(10, rel=0.2)

    at(scenario)


def test_no_number_of_refusals_counts_more_than_others_use_within_minutes(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        for _ in range(1000):
            office.use.charge_refusal("ann")
        assert office.use.used_s("ann") == pytest.approx(MAX_REFUSED_S, rel=0.01)

    at(scenario)


def test_while_the_broker_is_away_a_process_knows_what_was_used_in_it(at: Callable[[Scenario], None]) -> None:
    async def scenario(office: Office) -> None:
        one, other = [OwnerUse(office.cut_off()) for _ in range(2)]
        one.charge("ann", 3.0)
        assert await one.shared_s("ann") == pytest.approx(3, rel=0.1)
        assert await one.shared_s("ann") == pytest.approx(3, rel=0.1)
        assert await other.shared_s("ann") == 0
        await one.close()

    at(scenario)


def test_who_asks_on_has_to_wait_for_every_answer(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        ann, bob = [f"Bearer {await office.store.add(TokenGrant(name))}" for name in ("ann", "bob")]
        gate = office.gate(TokenSettings(requests_per_minute=1))
        await gate.authenticate(ann, ["create"])
        for _ in range(round(1.2 * FLOODING_S)):
            with pytest.raises(RateLimitError):
                await gate.authenticate(ann, ["create"])
        monkeypatch.setattr("serve_app.auth.access.REFUSAL_DELAY_S", 3600)
        monkeypatch.setattr("serve_app.auth.access.MAX_DELAYED", 1)
        reading = [asyncio.create_task(gate.authenticate(ann, ["read"])) for _ in range(2)]
        done, waiting = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, 1)  # of which the other waits
        await gate.authenticate(bob, ["read"])
        waiting.pop().cancel()

    at(scenario)


def test_an_address_that_fails_often_is_answered_late_and_others_are_not(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        ann = f"Bearer {await office.store.add(TokenGrant('ann'))}"
        gate = office.gate()

        async def fails(address: str | None) -> None:
            with pytest.raises(UnauthorizedError):
                await gate.authenticate("Bearer guessed", address=address)

        for number in range(PER_MINUTE):
            await fails(f"2001:db8::{number}")  # one network
            await fails("192.0.2.1" if number % 2 else "::ffff:192.0.2.1")  # as a socket for both kinds shows it
        monkeypatch.setattr("serve_app.auth.access.REFUSAL_DELAY_S", 3600)
        late = [asyncio.create_task(fails(address)) for address in ("192.0.2.1", "2001:db8::ffff")]
        for address in ("192.0.2.2", "::ffff:192.0.2.3", "2001:db8:0:1::1", "unknown", None, None):
            await fails(address)
        await gate.authenticate(ann, address="192.0.2.1")  # a right token is let in from anywhere
        done, waiting = await asyncio.wait(late, timeout=0)
        assert (len(done), len(waiting)) == (0, 2)
        for each in waiting:
            each.cancel()

    at(scenario)


def test_usage_that_is_being_written_when_a_process_ends_is_counted_once(
    at: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(office: Office) -> None:
        executed, pipeline = asyncio.Event(), office.redis.pipeline

        def lingering() -> Any:
            pipe = pipeline()
            execute = pipe.execute

            async def execute_and_linger() -> Any:
                result = await execute()
                executed.set()
                await asyncio.sleep(0.01)
                return result

            monkeypatch.setattr(pipe, "execute", execute_and_linger)
            return pipe

        monkeypatch.setattr(office.redis, "pipeline", lingering)
        monkeypatch.setattr("serve_app.auth.usage.FLUSH_S", 0)
        office.usage.request("ann")
        await executed.wait()
        await office.usage.close()
        monkeypatch.undo()
        assert (await usage_of(office.redis, "ann", 1)).requests == 1

    at(scenario)


def test_the_addresses_that_are_counted_are_bounded_and_forgotten_after_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve_app.auth.failed_attempts.MAX_ADDRESSES", 3)
    attempts = FailedAttempts()
    assert [attempts.count(f"192.0.2.{number}") for number in range(10)] == [False] * 10
    assert [attempts.count("192.0.2.0") for _ in range(PER_MINUTE)] == [False] * (PER_MINUTE - 1) + [True]
    assert not any(attempts.count("192.0.2.9") for _ in range(2 * PER_MINUTE))  # there was no room for it
    monkeypatch.setattr("serve_app.auth.failed_attempts.WINDOW_S", 0.0)
    assert not attempts.count("192.0.2.0")
