"""A client's server that webhooks call, on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import standardwebhooks
from aiohttp import web

from serve_app.photos.urls import FetchSettings

LOOPBACK = FetchSettings(allow_private=True, timeout_s=2)
KEY = b"the service's own key"


class Receiver:
    """A client's server. Gives the prepared statuses one after the other, the last one for ever; None hangs up."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int | None] = [200]
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.slow = asyncio.Event()  # set once slow calls are to be answered
        self.slow_calls = 0

    async def receive(self, request: web.Request) -> web.Response:
        self.got.append((request.headers.copy(), await request.read()))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status is None:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=status or 200, headers={"Location": self.url})

    async def receive_slowly(self, request: web.Request) -> web.Response:
        self.slow_calls += 1
        await self.slow.wait()
        return await self.receive(request)

    def order(self) -> list[str]:
        """The ids of the tasks that it was told of."""
        return [json.loads(body)["task_id"] for _headers, body in self.got]


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.receive)
    app.router.add_post("/slow", receiver.receive_slowly)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def verified(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """As a receiver checks it with the library that the operators' page names."""
    try:
        standardwebhooks.Webhook(secret).verify(body, dict(headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True
