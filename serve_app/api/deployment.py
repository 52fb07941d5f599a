"""The ingress deployment: a thin Serve shell around the HTTP application."""

import asyncio
import functools
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.api.app import build_http
from serve_app.api.settings import IngressSettings
from serve_app.auth.access import Access
from serve_app.auth.tokens import OwnToken
from serve_app.generation.container import Container
from serve_app.generation.service import AvatarService
from serve_app.pipeline.cold_start import StageMonitor, fetch_stage_states
from serve_app.policies import SLOTS


class AvatarIngress:
    """Authenticates and validates requests, fetches photos, and runs the pipeline or queues the task.

    It never calls the deployments in `unrouted`; Serve only starts what is bound to the ingress.
    """

    def __init__(
        self,
        settings: IngressSettings,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
        *unrouted: DeploymentHandle[Any],
    ) -> None:
        container = Container.of(settings, embedder, generator, remover)
        self._settings = settings
        self._stages = StageMonitor(
            functools.partial(fetch_stage_states, serve.get_replica_context().app_name),
            [handle.deployment_name for handle in (embedder, generator, remover)],
            container.pipeline,
            container.redis,
            settings.admission.cold_start_s,
        )
        self._stages.start()
        self._service = AvatarService(settings, container, self._stages)
        own = OwnToken(settings.data_dir) if settings.broker.url is None else None
        self._access = Access(container.redis, settings.tokens, container.usage, container.use, own)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `SlotsPolicy`."""
        return {SLOTS: self._service.creation.slots_in_use}

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_http(self._service, self._access, self._settings, stage_states)


async def stage_states() -> dict[str, str]:
    """The Serve status of each deployment of this application, by name."""
    stages = await asyncio.to_thread(fetch_stage_states, serve.get_replica_context().app_name)
    return {name: stage.status for name, stage in stages.items()}
