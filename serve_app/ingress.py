"""The ingress as a Serve deployment: the shell around the HTTP application."""

import asyncio
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.auth import TokenAuth, signing_key
from serve_app.catalog import Catalog
from serve_app.http import build_http
from serve_app.pipeline import AvatarPipeline
from serve_app.service import AvatarService
from serve_app.settings import Settings
from serve_app.storage import LocalResults


class AvatarIngress:
    """Authenticates, validates, fetches, admits, and runs the pipeline."""

    def __init__(
        self,
        settings: Settings,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._auth = TokenAuth.of(settings.data_dir)
        results = LocalResults(settings.data_dir / "results", signing_key(settings.data_dir), settings.result_ttl_s)
        pipeline = AvatarPipeline(embedder, generator, remover, results)
        catalog = Catalog.read(settings.catalogs)
        catalog.check_models(settings.generator.models)
        self._service = AvatarService(settings, catalog, results, pipeline)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_http(self._service, self._auth, self._settings, stage_states)


async def stage_states() -> dict[str, str]:
    """The deployments of this application and what Serve says of each."""
    status = await asyncio.to_thread(serve.status)
    app = status.applications[serve.get_replica_context().app_name]
    return {name: deployment.status.value for name, deployment in app.deployments.items()}
