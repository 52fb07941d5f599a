"""The graph: how the deployments are bound together. Numbers of replicas and resources are in the config file."""

from ray import serve

from deployments.background.deployment import BackgroundRemover
from deployments.diffusion.deployment import AvatarGenerator
from deployments.face.deployment import FaceEmbedder
from serve_app.ingress import AvatarIngress
from serve_app.settings import Settings


def build_app(settings: Settings) -> serve.Application:
    """The application for `serve run` and `serve deploy`; `settings` are the `args` of the config file."""
    return serve.deployment(serve.ingress()(AvatarIngress)).bind(
        settings,
        serve.deployment(FaceEmbedder).bind(settings.face),
        serve.deployment(AvatarGenerator).bind(settings.generator),
        serve.deployment(BackgroundRemover).bind(settings.background),
    )
