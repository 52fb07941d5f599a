"""The application graph: how the deployments are bound. Replica counts and resources are in the config file."""

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.background.deployment import BackgroundRemover
from deployments.diffusion.deployment import AvatarGenerator
from deployments.face.deployment import FaceEmbedder
from serve_app.api.deployment import AvatarIngress
from serve_app.backends.embedded_valkey import EmbeddedValkey
from serve_app.provenance.signing import Provenance
from serve_app.settings import Settings
from serve_app.tasks.progress import ProgressReporter
from serve_app.worker.deployment import AvatarWorker

# By name: its module is then imported only where handles route requests, such as the ingress.
ROUTING = RequestRouterConfig(
    request_router_class="deployments.diffusion.router.ModelRouter", request_routing_stats_period_s=2
)


def build_app(settings: Settings) -> serve.Application:
    """The application for `serve run` and `serve deploy`; `settings` are the `args` of the config file."""
    return graph(settings, AvatarGenerator)


def graph(settings: Settings, generator: type[AvatarGenerator]) -> serve.Application:
    """The bound deployments, with this class as the generator."""
    stages = (
        serve.deployment(FaceEmbedder).bind(settings.face.located(settings.models_dir)),
        serve.deployment(name=AvatarGenerator.__name__, request_router_config=ROUTING)(generator).bind(
            settings.generator.located(settings.models_dir), ProgressReporter(settings.broker, settings.data_dir)
        ),
        serve.deployment(BackgroundRemover).bind(
            settings.background.located(settings.models_dir),
            Provenance(settings.provenance, settings.broker, settings.data_dir),
        ),
    )
    unrouted = [serve.deployment(AvatarWorker).bind(settings, *stages)]
    if settings.broker.url is None:
        unrouted.append(serve.deployment(EmbeddedValkey).bind(settings.broker, settings.data_dir))
    return serve.deployment(serve.ingress()(AvatarIngress)).bind(settings, *stages, *unrouted)
