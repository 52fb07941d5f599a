import asyncio
import stat
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from redis.asyncio import Redis

from serve_app.auth import FileToken, RedisTokens, TokenAuth, ensure_token, sha256, signing_key
from serve_app.broker import BrokerSettings, connect
from serve_app.errors import BrokerError, UnauthorizedError

T = TypeVar("T")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def owner(data_dir: Path, header: str | None) -> str:
    return asyncio.run(TokenAuth(FileToken(data_dir)).owner(header))


def test_the_first_start_makes_a_token_that_only_its_owner_reads(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    token = (tmp_path / "token").read_text().strip()
    assert len(token) >= 43  # 256 bits
    assert {mode(tmp_path / name) for name in ("token", "token.sha256")} == {0o600}
    assert owner(tmp_path, f"Bearer {token}") == owner(tmp_path, f"bearer  {token} ") == sha256(token)[:16]


def test_the_next_start_keeps_the_token(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    before = (tmp_path / "token").read_text()
    ensure_token(tmp_path)
    assert (tmp_path / "token").read_text() == before


def test_the_service_needs_the_digest_only(tmp_path: Path) -> None:
    ensure_token(tmp_path)
    token = (tmp_path / "token").read_text().strip()
    (tmp_path / "token").unlink()
    assert owner(tmp_path, f"Bearer {token}")
    assert not (tmp_path / "token").exists()


def test_a_token_put_there_by_hand_counts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("my-own\n")
    assert owner(tmp_path, "Bearer my-own")


def test_an_empty_token_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        ensure_token(tmp_path)
    (tmp_path / "token.sha256").write_text(sha256(""))
    with pytest.raises(UnauthorizedError):
        owner(tmp_path, "Bearer ")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer \udcff", "Bearer secre"]
)
def test_anything_else_is_unauthorized(tmp_path: Path, header: str | None) -> None:
    (tmp_path / "token").write_text("secret\n")
    with pytest.raises(UnauthorizedError):
        owner(tmp_path, header)


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda _: signing_key(tmp_path), range(64)))
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]


def with_redis(data_dir: Path, scenario: Callable[[Redis], Awaitable[T]]) -> T:
    async def run() -> T:
        async with connect(BrokerSettings(), data_dir) as redis:
            return await scenario(redis)

    return asyncio.run(run())


def test_a_cluster_keeps_the_digests_of_its_tokens_alone(valkey: Path) -> None:
    async def scenario(redis: Redis) -> None:
        tokens = RedisTokens(redis, "tokens")
        ann, bob = await tokens.add("ann"), await tokens.add("bob")
        auth = TokenAuth(RedisTokens(redis, "tokens"))
        assert await auth.owner(f"Bearer {ann}") != await auth.owner(f"Bearer {bob}")
        with pytest.raises(UnauthorizedError):
            await auth.owner(f"Bearer {ann}x")
        assert await redis.hgetall("tokens") == {sha256(ann): "ann", sha256(bob): "bob"}

    with_redis(valkey, scenario)


def test_a_token_that_was_seen_counts_while_redis_is_away(valkey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(redis: Redis) -> None:
        tokens = RedisTokens(redis, "tokens")
        seen, unseen = await tokens.add("seen"), await tokens.add("unseen")
        assert await tokens.known(sha256(seen))

        monkeypatch.setattr("serve_app.auth.FRESH_S", 0)
        away = RedisTokens(connect(BrokerSettings(url="unix:///nothing/here.sock"), valkey), "tokens")
        away._seen = tokens._seen
        assert await away.known(sha256(seen))
        with pytest.raises(BrokerError):
            await away.known(sha256(unseen))

    with_redis(valkey, scenario)


def test_a_token_that_was_taken_back_stops_counting(valkey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(redis: Redis) -> None:
        tokens = RedisTokens(redis, "tokens")
        token = await tokens.add("ann")
        assert await tokens.known(sha256(token))
        await redis.hdel("tokens", sha256(token))
        monkeypatch.setattr("serve_app.auth.FRESH_S", 0)
        assert not await tokens.known(sha256(token))

    with_redis(valkey, scenario)
