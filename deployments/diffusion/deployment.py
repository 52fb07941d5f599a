"""The generator as a Serve deployment."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ray.serve import metrics

from deployments.common.checksums import FileCheck
from deployments.common.gpu_share import assigned_share
from deployments.common.gpu_watch import watch_gpu
from deployments.common.replica_exit import exit_on_device_loss
from deployments.common.startup_metrics import ColdStart
from deployments.common.time_limit import ends_by
from deployments.config import AvatarGeneratorConfig, model_path
from deployments.diffusion.compilation import compile_at_start, compile_when_idle, compiled_batch_sizes
from deployments.diffusion.compile_cache import use_compile_cache
from deployments.diffusion.engine.denoiser import Denoiser
from deployments.diffusion.engine.engine import DiffusionEngine, Launch
from deployments.diffusion.engine.latency_model import SHORTEST_STEP_S, LatencyModel
from deployments.diffusion.engine.progress import ProgressSink, keep_reporting
from deployments.diffusion.engine.scheduler import Bucket, Row
from deployments.diffusion.model_cache import ModelCache
from deployments.diffusion.routing_stats import RecentRows, RoutingStats
from deployments.errors import NotBegunError, UnsafeImageError
from deployments.safety.checker import SharedChecker
from deployments.types import AvatarSpec, FaceEmbedding, GeneratedImage, GenerationMetadata

SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
PROFILED_BATCH_SIZES = (1, 2, 4, 8, 16)

log = logging.getLogger("ray.serve")  # the logger whose lines Serve keeps

if TYPE_CHECKING:
    from deployments.diffusion.model.families import DiffusionModel


class LoadedModel(NamedTuple):
    """A denoiser and the safety checker of its images."""

    denoiser: Denoiser
    checker: SharedChecker | None


class AvatarGenerator:
    """Generates images; each is a row that shares its denoising steps with rows of other requests."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: AvatarGeneratorConfig, sink: ProgressSink | None = None, files: FileCheck | None = None
    ) -> None:
        self._start = ColdStart()
        if files is not None:
            await asyncio.to_thread(files.check)
        self._config = config
        self._latency_model = LatencyModel(max_batch_size=2 * config.max_rows)
        sizes = {name: model.memory() for name, model in config.models.items()}
        self._models = ModelCache(self._load, sizes, config.memory_gb)
        self._metrics = EngineMetrics()
        self._recent_rows = RecentRows()
        self._is_started = False
        self._watched_gpus: set[str] = set()
        self._compilations: list[Iterator[None]] = []  # for the engine, which starts later
        self._metadata: dict[str, asyncio.Task[GenerationMetadata]] = {}
        first, *others = self._models.fitting()
        async with self._models.lease(first):
            pass
        await asyncio.to_thread(self._check_files)
        self._engine = DiffusionEngine(self._latency_model, config.ageing, self._metrics)
        for compilation in self._compilations:
            self._engine.when_idle(compilation)
        self._is_started = True
        self._start.publish()
        self._loading = asyncio.create_task(self._load_others(others))
        if sink is not None:
            reporting = keep_reporting(self._engine, sink, config.progress_every_s, lambda: self._models.loads_s)
            self._reporting = asyncio.create_task(reporting)
            self._reporting.add_done_callback(lambda task: task.cancelled() or task.result())  # an error is logged

    async def generate(self, spec: AvatarSpec, face: FaceEmbedding) -> GeneratedImage:
        """A cancelled call frees its row before the next step.

        Raises: DeadlineError; NotBegunError; UnsafeImageError.
        """
        from deployments.diffusion.model.receipt import of_image

        drawn_with = self._generation_metadata(spec.model)  # computed during the generation
        with exit_on_device_loss():
            async with self._leased(spec) as model:
                if model.checker is not None:  # nobody may see what it would withhold
                    spec = replace(spec, previews=False)
                image = await self._drawn(spec, face, model.denoiser)
                if model.checker is not None and await model.checker.flags(image.pixels):
                    raise UnsafeImageError("The safety checker withholds this image.")
        config = self._config.models[spec.model]
        return replace(image, drawn_with=of_image(await asyncio.shield(drawn_with), config, spec))

    async def scale_from_zero(self) -> None:
        """Does nothing: the call itself makes Serve start a replica where there is none."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For the autoscaling policy: the images that wait or are being generated here."""
        return {"rows": len(self._engine.progress())}

    def record_routing_stats(self) -> dict[str, Any]:
        """For the router."""
        models = self._models
        loads_s = {name: round(seconds, 1) for name, seconds in models.expected_loads_s().items()}
        return RoutingStats(models.loaded, models.coming, loads_s, self._recent_rows.coarse_s)._asdict()

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica after three failures in a row. Raises: RuntimeError."""
        if not self._engine.alive:
            raise RuntimeError("the diffusion engine has ended")

    def __del__(self) -> None:
        if hasattr(self, "_engine"):  # the constructor may have failed
            self._engine.close()

    async def _drawn(self, spec: AvatarSpec, face: FaceEmbedding, denoiser: Denoiser) -> GeneratedImage:
        """Ends when nothing computes with the model for this image, also of a caller who left: it may be evicted."""
        row = self._engine.submit(spec, face, denoiser)
        self._recent_rows.add(row.shared_s(self._latency_model))
        try:
            return await asyncio.wrap_future(row.future)
        finally:
            await asyncio.to_thread(self._engine.await_unused, row)

    @asynccontextmanager
    async def _leased(self, spec: AvatarSpec) -> AsyncIterator[LoadedModel]:
        """The model of an image, which may have to be loaded first. Raises: NotBegunError where that takes too long."""
        begin_by = spec.start_deadline
        async with AsyncExitStack() as held:
            async with ends_by(begin_by, NotBegunError.within((begin_by or 0.0) - spec.submitted_at)):
                model = await held.enter_async_context(self._models.lease(spec.model))
            yield model

    def _generation_metadata(self, name: str) -> asyncio.Task[GenerationMetadata]:
        from deployments.diffusion.model.receipt import generation_metadata

        known = self._metadata.get(name)
        if known is None or (known.done() and known.exception() is not None):  # a read of the disk may fail once
            known = asyncio.create_task(asyncio.to_thread(generation_metadata, name, self._config.models[name]))
            self._metadata[name] = known
        return known

    async def _load_others(self, names: Sequence[str]) -> None:
        """One by one, while images are drawn. An error is logged; a request for that model gets it again."""
        for name in names:
            try:
                with exit_on_device_loss():
                    await self._models.preload(name)
            except Exception:
                log.exception("model %s could not be loaded", name)

    def _check_files(self) -> None:
        """Of models that load later, too: missing weights fail a start, not requests. Raises: OSError, ValueError."""
        from deployments.diffusion.model.families import check_files

        for config in self._config.models.values():
            check_files(config)

    def _load(self, name: str) -> LoadedModel:
        """Load a model and profile its steps. Blocks: called on a thread."""
        with self._start.part("import"):
            # Imported here, so that building the graph loads no model library.
            from deployments.common.device_health import lost_device_errors
            from deployments.diffusion.model.families import load_model
            from deployments.safety.model import load_checker

        config = self._config.models[name]
        with self._start.part("load"), lost_device_errors(config.device):
            self._take_gpu(config.device)
            on_compile_failure = partial(self._metrics.compile_failed, name)
            model = load_model(config, self._config.batch_invariant, on_compile_failure, self._start.part)
            checker = None if config.safety is None else SharedChecker(load_checker(config.safety, config.device))
        with self._start.part("compile"), lost_device_errors(config.device):
            if config.compile:
                if self._config.compile_cache is not None:
                    use_compile_cache(model_path(self._config.compile_cache), config.device)
                self._compile(name, model)
        with self._start.part("warm"), lost_device_errors(config.device):
            profiled = [size for size in PROFILED_BATCH_SIZES if size <= self._latency_model.max_batch_size]
            self._latency_model.set_profile(name, model.profile(profiled))
        return LoadedModel(model, checker)

    def _take_gpu(self, device: str) -> None:
        """Keep within this replica's share of a GPU's memory, and report the GPU. Does nothing for a CPU."""
        from deployments.diffusion.model.gpu_memory import gpu_uuid, limit_gpu_memory

        limit_gpu_memory(device, assigned_share(), self._config.memory_gb)
        uuid = gpu_uuid(device)
        if uuid is not None and uuid not in self._watched_gpus:
            self._watched_gpus.add(uuid)
            watch_gpu(uuid)

    def _compile(self, name: str, model: "DiffusionModel") -> None:
        """At the start the first size at once, in minutes; everything else when the engine has no rows."""
        config = self._config.models[name]
        sizes = config.compile_sizes or (model.own_size,)
        batch_sizes = compiled_batch_sizes(
            self._config, guided=config.compile_guided is not False, single=config.compile_single is True
        )
        if self._is_started:
            self._engine.when_idle(compile_when_idle(model, sizes, batch_sizes))
            return
        compile_at_start(model, sizes[0], batch_sizes)
        self._compilations.append(compile_when_idle(model, sizes[1:], batch_sizes))


class EngineMetrics:
    """Prometheus metrics of the engine, through Ray."""

    def __init__(self) -> None:
        model = ("model",)
        self._step_s = metrics.Histogram("avatar_step_seconds", "Time of a denoising step.", SECONDS, model)
        self._rows = metrics.Histogram("avatar_step_rows", "Images that share a step.", list(range(1, 17)), model)
        self._join_s = metrics.Histogram("avatar_join_seconds", "From arrival to the first step.", SECONDS, model)
        shape = (
            "model",
            "size",
            "batch_size",
        )  # of the denoiser's batch, in which an image with guidance takes two rows
        self._steps = metrics.Counter("avatar_denoising_steps_total", "Denoising steps.", shape)
        self._steps_s = metrics.Counter("avatar_denoising_seconds_total", "Time of those steps.", shape)
        self._unfinished = metrics.Gauge("avatar_rows", "Images that wait or are being drawn.", ("model", "size"))
        self._compile_failures = metrics.Counter(
            "avatar_compile_failures_total", "Shapes that run uncompiled because their compiler or graph failed.", model
        )
        self._buckets: set[Bucket] = set()

    def compile_failed(self, model: str) -> None:
        """Count a shape of this model that runs uncompiled from now on."""
        self._compile_failures.inc(tags={"model": model})

    def joined(self, rows: Sequence[Row]) -> None:
        """As `Observer.joined`."""
        for row in rows:
            if row.joined_at is not None:
                self._join_s.observe(max(0.0, row.joined_at - row.arrived_at), {"model": row.spec.model})

    def stepped(self, launch: Launch, seconds: float, waiting: Mapping[Bucket, int]) -> None:
        """As `Observer.stepped`; emptied buckets are set to 0."""
        model, size = launch.rows[0].bucket
        tags = {"model": model}
        self._step_s.observe(seconds, tags)
        self._rows.observe(len(launch.rows), tags)
        shape = tags | {"size": str(size), "batch_size": str(launch.batch_size)}
        self._steps.inc(tags=shape)
        self._steps_s.inc(max(seconds, SHORTEST_STEP_S), shape)
        self._buckets |= waiting.keys()
        for bucket in self._buckets:
            self._unfinished.set(waiting.get(bucket, 0), {"model": bucket[0], "size": str(bucket[1])})
