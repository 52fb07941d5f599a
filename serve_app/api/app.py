"""Builds the HTTP application: routes, error handlers and middleware."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Security
from fastapi_offline import FastAPIOffline
from pydantic import IPvAnyNetwork
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import serve_app
from serve_app.api.body import BodyReader
from serve_app.api.body_budget import BodyBudget
from serve_app.api.dependencies import authenticator
from serve_app.api.errors import add_error_handlers
from serve_app.api.loop_lag import LoopLag
from serve_app.api.mcp.routes import add_mcp_route
from serve_app.api.metrics import RequestMetrics
from serve_app.api.openai.routes import add_openai_routes
from serve_app.api.playground import add_playground
from serve_app.api.routes.avatars import add_avatar_routes
from serve_app.api.routes.batches import add_batch_routes
from serve_app.api.routes.images import add_image_routes
from serve_app.api.routes.service import StageStates, add_service_routes, add_status_routes
from serve_app.api.routes.tasks import add_event_route, add_task_routes
from serve_app.api.security_headers import with_headers
from serve_app.api.settings import IngressSettings
from serve_app.auth.access import Access
from serve_app.batches.service import BatchService
from serve_app.generation.service import AvatarService


def build_http(service: AvatarService, access: Access, settings: IngressSettings, stage_states: StageStates) -> ASGIApp:
    """The ASGI application of one ingress replica."""

    lag = LoopLag(settings.admission.max_loop_lag_s, settings.admission.retry_after_s)

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        service.start()
        lag.start()
        async with mcp:
            yield
        lag.close()
        await service.close()

    api = FastAPIOffline(
        title="Face Avatar",
        version=serve_app.__version__,
        description="One photo of a face in, consistent avatars of that face out.",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    api.add_middleware(RequestMetrics)
    if settings.trusted_proxies:
        api.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(_as_peers(settings.trusted_proxies)))
    add_error_handlers(api)
    authenticate = authenticator(access, settings)
    token = Security(authenticate)
    may_create, may_read, may_cancel = (
        Security(authenticate, scopes=[scope]) for scope in ("create", "read", "cancel")
    )
    bodies = BodyReader(settings.max_body_bytes, BodyBudget(settings.admission, access.use.charge_refusal), lag)
    add_avatar_routes(api, service, settings, bodies, may_create)
    add_task_routes(api, service, settings, bodies, may_read=may_read, may_cancel=may_cancel)
    add_event_route(api, service, access, settings, may_read=may_read)
    add_batch_routes(
        api, BatchService(service), settings, bodies, may_create=may_create, may_read=may_read, may_cancel=may_cancel
    )
    add_openai_routes(api, service, settings, bodies, token=token, may_create=may_create)
    mcp = add_mcp_route(api, settings, bodies, token=token)
    add_image_routes(api, service, bodies, may_create)
    add_service_routes(api, service, token)
    add_status_routes(api, service, stage_states)
    add_playground(api, results_elsewhere=settings.store.is_shared)
    return with_headers(api, settings.cors, settings.public_url)


def _as_peers(networks: Iterable[IPvAnyNetwork]) -> Iterator[str]:
    """Networks as their addresses show at a socket; one for IPv4 and IPv6 shows the former as `::ffff:10.0.0.5`."""
    for network in networks:
        yield str(network)
        if network.version == 4:
            yield f"::ffff:{network.network_address}/{96 + network.prefixlen}"
