"""Clients of the whole HTTP application of an ingress, without a network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from serve_app.api.app import build_http
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.settings import Settings
from tests.support.ingresses import Ingress


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
