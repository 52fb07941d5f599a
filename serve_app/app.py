"""The application graph: how the deployments are bound. Replica counts and resources are in the config file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.background.deployment import BackgroundRemover
from deployments.config import (
    FACE_VECTOR,
    MODELS,
    AvatarGeneratorConfig,
    DiffusionModelConfig,
    FaceEmbedderConfig,
    LoraConfig,
)
from deployments.diffusion.deployment import AvatarGenerator
from deployments.diffusion.routing_stats import STATS_PERIOD_S
from deployments.face.deployment import FaceEmbedder
from serve_app.api.deployment import AvatarIngress
from serve_app.backends.embedded_valkey import EmbeddedValkey
from serve_app.catalog.apps import App, lora_name
from serve_app.catalog.catalog import Catalog
from serve_app.catalog.pins import UnpublishedFiles
from serve_app.provenance.signing import Provenance
from serve_app.settings import Settings
from serve_app.tasks.progress import ProgressReporter
from serve_app.worker.deployment import AvatarWorker

HEAD_PX = 512  # a quarter of the tokens of a picture of 1024 pixels, for models whose tokens are of the same size

# By name: its module is then imported only where handles route requests, such as the ingress.
ROUTING = RequestRouterConfig(
    request_router_class="deployments.diffusion.router.ModelRouter", request_routing_stats_period_s=STATS_PERIOD_S
)


def build_app(settings: Settings) -> serve.Application:
    """The application for `serve run` and `serve deploy`; `settings` are the `args` of the config file."""
    return graph(settings, AvatarGenerator)


def graph(settings: Settings, generator: type[AvatarGenerator]) -> serve.Application:
    """The bound deployments, with this class as the generator."""
    catalog, models_dir = Catalog.read(settings.catalogs), settings.models_dir
    faces, models, background = faces_of_apps(settings), generator_of_apps(settings), settings.background
    files = catalog.files(catalog.downloads)
    stages = (
        serve.deployment(FaceEmbedder).bind(faces.located(models_dir), UnpublishedFiles.of(files, faces, models_dir)),
        serve.deployment(name=AvatarGenerator.__name__, request_router_config=ROUTING)(generator).bind(
            models.located(models_dir),
            ProgressReporter(settings.broker, settings.data_dir),
            UnpublishedFiles.of(files, models, models_dir),
        ),
        serve.deployment(BackgroundRemover).bind(
            background.located(models_dir),
            Provenance(settings.provenance, settings.broker, settings.data_dir),
            UnpublishedFiles.of(files, background, models_dir),
        ),
    )
    unrouted = [serve.deployment(AvatarWorker).bind(settings, *stages)]
    if settings.broker.url is None:
        unrouted.append(serve.deployment(EmbeddedValkey).bind(settings.broker, settings.data_dir))
    return serve.deployment(serve.ingress()(AvatarIngress)).bind(settings, *stages, *unrouted)


def faces_of_apps(settings: Settings) -> FaceEmbedderConfig:
    """The face settings, with the models that the apps use, and whether theirs need pictures of heads.

    Raises: ValueError where one is missing, or gives no vectors that the generator's model of its app takes.
    """
    catalog = Catalog.read(settings.catalogs)
    faces = catalog.faces(settings.face, settings.license_mode)
    needs_heads = False
    for app_id, app in catalog.apps.items():
        model = settings.generator.models.get(app.model)
        face = faces.model if app.face_model is None else settings.face.models[app.face_model]
        if model is not None and model.takes_pictures:
            needs_heads = True
        elif model is not None and face.vector_length != FACE_VECTOR:
            raise ValueError(
                f"app {app_id}: its face model gives vectors of {face.vector_length} numbers, and {app.model} takes"
                f" {FACE_VECTOR}"
            )
    return faces.model_copy(update={"head_px": (faces.head_px or HEAD_PX) if needs_heads else None})


def generator_of_apps(settings: Settings) -> AvatarGeneratorConfig:
    """The generator's settings with the models that the apps use, with the apps' LoRAs, compiled for them.

    Raises: ValueError where one is missing, or no app may be used.
    """
    catalog = Catalog.read(settings.catalogs)
    catalog.check_models(settings.generator.models)
    catalog.check_licences(settings.license_mode)
    usable, models = catalog.usable(settings.license_mode), {}
    for name, model in settings.generator.models.items():
        if apps := {app_id: app for app_id, app in usable.items() if app.model == name}:
            models[name] = _compiled_for_apps(_with_files(model, apps), [*apps.values()])
    return settings.generator.model_copy(update={"models": models})


def _with_files(model: DiffusionModelConfig, apps: Mapping[str, App]) -> DiffusionModelConfig:
    """Those of the operator's own settings come first."""
    loras = {
        lora_name(app_id, name): LoraConfig(
            file=Path(f"{MODELS}{lora.file}"), scale=lora.scale, is_style=name in app.styles
        )
        for app_id, app in apps.items()
        for name, lora in app.loras.items()
    }
    decoders = {
        app_id: Path(f"{MODELS}{app.fast.decoder}")
        for app_id, app in apps.items()
        if app.fast is not None and app.fast.decoder is not None
    }
    return model.model_copy(update={"loras": loras | model.loras, "decoders": decoders | model.decoders})


def _compiled_for_apps(model: DiffusionModelConfig, apps: Sequence[App]) -> DiffusionModelConfig:
    if not model.compile:
        return model
    sizes = model.compile_sizes or tuple(dict.fromkeys(size for app in apps for size in app.native_sizes))
    guided = model.compile_guided
    if guided is None:
        guided = any(app.has_guidance and app.defaults.guidance_scale > 1 for app in apps)
    single = model.compile_single
    if single is None:
        has_single_rows = any(app.fast is not None and app.fast.guidance_scale == 1 for app in apps)
        single = guided and (has_single_rows or model.guidance_interval is not None)
    return model.model_copy(update={"compile_sizes": sizes, "compile_guided": guided, "compile_single": single})
