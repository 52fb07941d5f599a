"""Clients of the whole HTTP application of an ingress, without Serve around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from serve_app.api.app import build_http
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.launcher import free_port
from serve_app.settings import Settings
from tests.support.ingresses import Ingress
from tests.support.polling import eventually


async def _nothing() -> dict[str, str]:
    return {}


@asynccontextmanager
async def browsing(ingress: Ingress, data_dir: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client of the whole HTTP application, and the owner that its token stands for."""
    app = build_http(ingress.service, ingress.access, Settings(data_dir=data_dir), _nothing)
    bearer = f"Bearer {(data_dir / TOKEN_FILE).read_text().strip()}"
    owner = (await ingress.access.authenticate(bearer)).token.owner
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://service", headers={"Authorization": bearer}
    ) as client:
        yield client, owner


@asynccontextmanager
async def serving(ingress: Ingress, data_dir: Path, **settings: Any) -> AsyncIterator[tuple[str, str]]:
    """The whole HTTP application on a port of this machine: its URL, and a token."""
    port = free_port()
    app = build_http(ingress.service, ingress.access, Settings(data_dir=data_dir, **settings), _nothing)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    running = asyncio.create_task(server.serve())
    await eventually(lambda: asyncio.sleep(0, server.started))
    yield f"http://127.0.0.1:{port}", (data_dir / TOKEN_FILE).read_text().strip()
    server.should_exit = True
    await running
