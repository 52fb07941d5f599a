"""The lag of the event loop, on a real one."""

import asyncio
import time
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from serve_app.api import loop_lag
from serve_app.api.loop_lag import INTERVAL_S, LoopLag
from serve_app.errors import OverloadedError
from serve_app.schemas.requests import AvatarRequest
from tests.support.bodies import app_without_apps, reader_of, request_of

BLOCK_S = 2 * INTERVAL_S
MAX_LAG_S = BLOCK_S / 4


async def until(done: Callable[[], bool], *, blocking: bool = False) -> None:
    """Run the event loop until `done`; `blocking`: with something in it that does not give way."""
    async with asyncio.timeout(30):
        while not done():
            if blocking:
                time.sleep(BLOCK_S)  # noqa: ASYNC251
            await asyncio.sleep(0 if blocking else INTERVAL_S / 10)


def is_shed(lag: LoopLag) -> bool:
    try:
        lag.check()
    except OverloadedError:
        return True
    return False


def test_a_loop_that_stays_late_sheds_load_until_it_is_on_time_again() -> None:
    async def main() -> None:
        lag = LoopLag(MAX_LAG_S, 7)
        lag.start()
        await until(lambda: is_shed(lag), blocking=True)
        await until(lambda: not is_shed(lag))
        lag.close()

    asyncio.run(main())


def test_one_long_block_sheds_nothing() -> None:
    async def main() -> None:
        lag, seen = LoopLag(0.5, 7), []
        lag._seconds.observe = seen.append  # type: ignore[method-assign]
        lag.start()
        await until(lambda: bool(seen))
        time.sleep(1)  # noqa: ASYNC251
        count = len(seen)
        while len(seen) < count + loop_lag.SAMPLES:
            assert not is_shed(lag)
            await asyncio.sleep(INTERVAL_S / 10)
        assert max(seen) > 0.5
        lag.close()

    asyncio.run(main())


def test_while_the_loop_is_late_new_work_is_refused_before_its_body_is_read() -> None:
    async def main() -> None:
        lag = LoopLag(MAX_LAG_S, 7)
        lag._latest.extend([1.0] * loop_lag.SAMPLES)
        request = request_of()
        request._receive = lambda: pytest.fail("its body was read")  # type: ignore[assignment]
        with pytest.raises(OverloadedError, match="too busy"):
            async with reader_of(lag=lag).model(AvatarRequest, request):
                pytest.fail("it was accepted")

    asyncio.run(main())


def test_what_is_cheap_is_answered_while_the_loop_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopLag, "lag_s", 9.0)
    with TestClient(app_without_apps()) as client:
        for path in ("/getImageToImage", "/getImagetoImage", "/api/v1/faces", "/api/v1/verify"):
            refused = client.post(path, json={"app_id": "a", "file_url": "https://example.org/me.jpg"})
            assert (refused.status_code, refused.json()["error"]) == (503, "Overloaded")
            assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200
        assert client.post("/getImage", json={}).json()["error"] == "Invalid Request"
