"""Routes about the service: apps, health, and the webhook secret."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from serve_app.api.dependencies import envelope_response
from serve_app.api.openapi import envelopes
from serve_app.auth.access import require_right
from serve_app.errors import OverloadedError
from serve_app.generation.service import AvatarService
from serve_app.schemas.responses import Envelope

PROBE_TIMEOUT_S = 5
StageStates = Callable[[], Awaitable[dict[str, str]]]
"""Returns the Serve status of each stage: HEALTHY, UPSCALING, ..."""


def add_service_routes(api: FastAPI, service: AvatarService, token: Any) -> None:
    """Add the list of apps and the webhook secret; `token` is a dependency that accepts every valid token."""

    @api.get(
        "/api/v1/apps",
        operation_id="listApps",
        summary="List the apps",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 429, 503),
    )
    async def apps() -> JSONResponse:
        """The apps that `app_id` can name: titles, licences of their weights, native sizes, defaults, known words."""
        return envelope_response(
            Envelope(output={"apps": service.apps(), "consent_required": service.settings.require_consent})
        )

    @api.get(
        "/api/v1/webhook-secret",
        operation_id="getWebhookSecret",
        summary="Get the secret that signs webhooks",
        dependencies=[token],
        response_model=Envelope,
        responses=envelopes(401, 403, 429, 503),
    )
    async def webhook_secret(request: Request) -> JSONResponse:
        """The secret that signs what the webhooks of this token get (Standard Webhooks: `whsec_…`)."""
        # The secret is enough to forge webhooks. Not a scope of the route, which would count as a request for avatars.
        require_right(request.state.token, "create")
        return envelope_response(Envelope(output={"webhook_secret": service.webhook_secret(request.state.owner)}))


def add_status_routes(api: FastAPI, service: AvatarService, stage_states: StageStates) -> None:
    """Add `/healthz` and `/readyz`, which need no token."""

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", operation_id="getLiveness", summary="Whether the process lives", response_model=Envelope)
    async def healthz() -> JSONResponse:
        """The process lives."""
        return envelope_response(Envelope(output={"healthy": True}))

    @api.head("/readyz", include_in_schema=False)
    @api.get(
        "/readyz",
        operation_id="getReadiness",
        summary="Whether requests can be served",
        response_model=Envelope,
        responses=envelopes(503),
    )
    async def readyz() -> JSONResponse:
        """The ingress, the broker and the store answer; lists the stages, which may be at zero replicas."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await service.check()
                stages = await stage_states()
        except TimeoutError:
            raise OverloadedError(f"No answer within {PROBE_TIMEOUT_S} s.") from None
        return envelope_response(Envelope(output={"ready": True, "stages": stages}))
