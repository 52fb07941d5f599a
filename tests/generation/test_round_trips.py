"""How often a request asks the broker: each time costs a queued request the way there and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from serve_app.auth.tokens import TokenGrant, TokenStore
from tests.support.http_clients import browsing
from tests.support.ingresses import Ingress, ScenarioRunner, scenario_runner

MOST = 6


@pytest.fixture
def at(valkey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScenarioRunner:
    """Without what a process asks now and then for all its requests, as they take longer here on a busy machine."""
    run = scenario_runner(valkey, tmp_path, monkeypatch)
    periods = ("auth.tokens.FRESH_S", "auth.usage.FLUSH_S", "backends.broker_memory.FRESH_S", "tasks.leases.POLL_S")
    for now_and_then in periods:
        monkeypatch.setattr(f"serve_app.{now_and_then}", 60.0)
    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is sent to the broker, an entry a round trip."""
    sent: list[object] = []
    send = AbstractConnection.send_packed_command

    async def noted(connection: AbstractConnection, command: Any, check_health: bool = True) -> None:
        sent.append(command)
        await send(connection, command, check_health)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", noted)
    return sent


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "key"}], ids=["plain", "idempotent"])
def test_a_202_takes_few_round_trips_with_rate_limits_and_its_place_in_the_queue(
    at: Callable[..., None], tmp_path: Path, sent: list[object], headers: dict[str, str]
) -> None:
    async def scenario(make: Callable[..., Ingress]) -> None:
        ingress = make()
        secret = await TokenStore(ingress.redis).add(TokenGrant("ann"))
        body = {"app_id": "face-avatar", "file_url": "https://example.org/me.jpg", "celery": True}
        async with browsing(ingress, tmp_path) as (client, _owner):
            for number in range(2):  # the first one loads scripts and reads the token
                sent.clear()
                more = {name: f"{value}{number}" for name, value in headers.items()}
                answer = await client.post(
                    "/getImageToImage", json=body, headers={"Authorization": f"Bearer {secret}", **more}
                )
                assert answer.status_code == 202
                assert answer.json()["output"]["progress"]["queue_position"] == number + 1
        assert len(sent) <= MOST, sent

    at(scenario)
