"""The pipeline, the only module that knows the order of the stages.

face embedding -> for each image: generator -> background remover -> store, and generator -> similarity; between
generator and background remover, the place of the face where the file has another shape than the image. The embedding
is awaited first, so that a photo without a face never scales a generator up from zero. The rest is chained by
reference: pixels go from stage to stage through Ray's object store, not through this process.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from ray.serve import metrics
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

import serve_app
from deployments.common.time_limit import ends_by
from deployments.errors import NotBegunError, UnsafeImageError
from deployments.types import (
    Avatar,
    AvatarSpec,
    Box,
    FaceEmbedding,
    FoundFaces,
    GeneratedImage,
    GenerationMetadata,
    Photo,
    PostprocessSpec,
)
from serve_app.backends.object_store import Results, result_key, thumbnail_key
from serve_app.errors import OverloadedError
from serve_app.pipeline.calls import (
    STAGE_LOST,
    Calls,
    all_or_none,
    assigned,
    cancel,
    is_lost,
    value_of,
    value_of_chained,
)
from serve_app.pipeline.gc import ReferenceCollector
from serve_app.pipeline.job import MAX_REDRAWS, SHARED_ATTEMPTS, AvatarJob, Drawing, ImageDone
from serve_app.pipeline.job_start import JobStart
from serve_app.tasks.models import StoredAvatar

MAX_ATTEMPTS = 4  # of one stage on one image, when its replicas die

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobResult:
    """The images in the order of their indices, and the seconds until the face was embedded.

    `doubtful` are the photos, from 0, that seem to show somebody else than the others; `warnings` has the codes of
    FACE_WARNINGS of each photo.
    """

    avatars: list[StoredAvatar]
    face_s: float
    doubtful: tuple[int, ...] = ()
    warnings: tuple[tuple[str, ...], ...] = ()


class AvatarPipeline:
    """Runs a job through the stages. Calls to replicas that die are retried; a cancelled job stops all its stages."""

    def __init__(
        self,
        embedder: DeploymentHandle[Any],
        generator: DeploymentHandle[Any],
        remover: DeploymentHandle[Any],
        results: Results,
    ) -> None:
        self._embedder = embedder
        self._generator = generator
        self._remover = remover
        self._results = results
        self._references = ReferenceCollector()
        self._repeated = metrics.Counter(
            "avatar_repeated_attempts_total",
            "Attempts that were repeated, as a replica or its device was lost.",
            ("stage",),
        )

    async def run(self, job: AvatarJob, photos: Sequence[Photo], image_done: ImageDone) -> JobResult:
        """Make the images that are not done yet; `image_done` is called when one of them is stored.

        Raises: NoFaceError; OtherPersonError; DeadlineError; NotBegunError; OverloadedError; UnsafeImageError where all
        images are withheld; RayTaskError where a stage has a bug.
        """
        started = time.perf_counter()
        try:
            with _overload_errors():
                async with ends_by(job.start_deadline, NotBegunError.within(job.request.start_deadline_s or 0.0)):
                    face = await self.embed(photos, job.tenant_used_s, job.face_model)
                face_s = time.perf_counter() - started
                start = JobStart(job.request.batch)
                images = [self._image(job, index, face, start, image_done) for index in range(job.request.batch)]
                return JobResult(_require_shown(await all_or_none(images)), face_s, face.doubtful, face.warnings)
        finally:
            self._references.collect_soon()

    async def scale_from_zero(self) -> None:
        """Scale the stages after the embedder up from zero, and wait until they have a replica."""
        await asyncio.gather(
            value_of(self._generator.scale_from_zero.remote()), value_of(self._remover.scale_from_zero.remote())
        )

    async def embed(self, photos: Sequence[Photo], used_s: float = 0.0, face_model: str | None = None) -> FaceEmbedding:
        """The face of the person on all photos. `used_s`: what their owner used recently, seconds.

        Raises: NoFaceError; OtherPersonError.
        """
        first, *others = photos
        asked = _given(face_model=face_model, others=others)
        return await self._from_embedder(lambda: self._embedder.embed.remote(first, used_s, **asked))

    async def inspect(self, photo: Photo, used_s: float = 0.0, face_model: str | None = None) -> FoundFaces:
        """The faces of a photo; does not scale the generator up from zero. Raises: OverloadedError."""
        asked = _given(face_model=face_model)
        with _overload_errors():
            return await self._from_embedder(lambda: self._embedder.inspect.remote(photo, used_s, **asked))

    async def _from_embedder(self, call: Callable[[], DeploymentResponse[T]]) -> T:
        """The value of a call to the embedder, which is repeated where its replica died."""
        with Calls() as calls:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    return await value_of(calls.add(call()))
                except STAGE_LOST as error:
                    _log_retry_or_raise(error, attempt)
                    self._repeated.inc(tags={"stage": "face"})
        raise AssertionError("the last attempt returns or raises")

    async def _image(
        self, job: AvatarJob, index: int, face: FaceEmbedding, start: JobStart, image_done: ImageDone
    ) -> StoredAvatar:
        if index in job.done:
            return job.done[index]
        try:
            drawings = await self._drawings(job, index, face, start)
        except UnsafeImageError:
            stored = StoredAvatar("", "", job.seed(index, 0), None, 0.0, 0.0, 0.0, 0.0, withheld=True)
            await image_done(index, stored)
            return stored
        spec, avatar, similarity = max(drawings, key=lambda drawing: drawing.rank)
        key, thumbnail = result_key(job.task_id, index, avatar.output_format), thumbnail_key(job.task_id, index)
        started = time.perf_counter()
        await asyncio.gather(self._results.put(key, avatar.data), self._results.put(thumbnail, avatar.thumbnail))
        stored = StoredAvatar(
            key=key,
            thumbnail_key=thumbnail,
            seed=spec.seed,
            face_similarity=similarity,
            startup_s=avatar.startup_s,
            diffusion_s=sum(drawing.avatar.diffusion_s for drawing in drawings),
            finish_s=avatar.finish_s,
            store_s=time.perf_counter() - started,
            attempts=tuple(drawing.attempt for drawing in drawings),
            drawn_with=_with_face_weights(avatar.drawn_with, face),
            drawn_size=(spec.width, spec.height),
            drawn_sha256=avatar.drawn_sha256,
        )
        await image_done(index, stored)
        return stored

    async def _drawings(self, job: AvatarJob, index: int, face: FaceEmbedding, start: JobStart) -> list[Drawing]:
        """Draw an image, and again while its face similarity is below the requested one and there is time."""
        drawings: list[Drawing] = []
        for redraw in range(1 + MAX_REDRAWS):
            spec, started = job.avatar_spec(index, redraw), time.time()
            try:
                drawings.append(Drawing(spec, *await self._draw_in_time(spec, job.postprocess_spec(spec), face, start)))
            except (BackPressureError, DeploymentUnavailableError, UnsafeImageError):
                if not drawings:
                    raise
                break
            ends = time.time() + (time.time() - started)
            if job.is_like(drawings[-1].face_similarity) or ends > job.deadline:
                break
        return drawings

    async def _draw_in_time(
        self, spec: AvatarSpec, postprocessing: PostprocessSpec, face: FaceEmbedding, start: JobStart
    ) -> tuple[Avatar, float | None]:
        """As `_draw`; of an image that was given up, again, where another one of its job has begun."""
        try:
            drawn = await self._draw(spec, postprocessing, face)
        except NotBegunError as error:
            await start.image_given_up(error)
            return await self._draw(replace(spec, start_deadline=None), postprocessing, face)
        except UnsafeImageError:
            start.image_begun()
            raise
        start.image_begun()
        return drawn

    async def _draw(
        self, spec: AvatarSpec, postprocessing: PostprocessSpec, face: FaceEmbedding
    ) -> tuple[Avatar, float | None]:
        """Generate and post-process one image; after a failure, an image that was generated is not generated again."""
        with Calls() as calls:
            image, vector = calls.add(self._generate(spec, face)), replace(face, heads=())
            if spec.start_deadline is not None:
                # Without a replica nobody knows of it. From when one has it, that sees to its start.
                late = NotBegunError.within(spec.start_deadline - spec.submitted_at)
                async with ends_by(spec.start_deadline, late):
                    await assigned(image)
            for attempt in range(1, MAX_ATTEMPTS + 1):
                similarity = calls.add(self._embedder.similarity.remote(image, vector, spec.tenant_used_s))
                started = [similarity]
                try:
                    box: Box | None = None
                    if _changes_shape(spec, postprocessing):
                        asked = _given(face_model=face.face_model)
                        located = calls.add(self._embedder.locate.remote(image, spec.tenant_used_s, **asked))
                        started.append(located)
                        box = await value_of_chained(located, image)
                    avatar = calls.add(self._remover.postprocess.remote(image, postprocessing, box))
                    started.append(avatar)
                    return await value_of_chained(avatar, image), await value_of_chained(similarity, image)
                except STAGE_LOST as error:
                    _log_retry_or_raise(error, attempt)
                    cancel(*started)
                    lost = await is_lost(image)
                    self._repeated.inc(tags={"stage": "diffusion" if lost else "finish"})
                    if lost:
                        again = replace(spec, alone=attempt >= SHARED_ATTEMPTS, start_deadline=None)
                        image = calls.add(self._generate(again, face))
        raise AssertionError("the last attempt returns or raises")

    def _generate(self, spec: AvatarSpec, face: FaceEmbedding) -> DeploymentResponse[GeneratedImage]:
        # The router prefers replicas that have the model with this id in memory.
        return self._generator.options(multiplexed_model_id=spec.model).generate.remote(spec, face)


def _given(**options: Any) -> dict[str, Any]:
    """Those that are not empty: during an update, a replica of the version before may not know a new one."""
    return {name: value for name, value in options.items() if value}


def _changes_shape(spec: AvatarSpec, postprocessing: PostprocessSpec) -> bool:
    """Whether the file has another aspect ratio than the image, so that it depends on where the face is."""
    return spec.width * postprocessing.height != spec.height * postprocessing.width


def _with_face_weights(drawn_with: GenerationMetadata | None, face: FaceEmbedding) -> GenerationMetadata | None:
    """The generation metadata with the weights of the face stage and the version of this package."""
    if drawn_with is None:
        return None
    versions = {"face-avatar": serve_app.__version__, **drawn_with.versions}
    return replace(drawn_with, weights={**drawn_with.weights, **face.weights}, versions=versions)


def _require_shown(avatars: list[StoredAvatar]) -> list[StoredAvatar]:
    if all(avatar.withheld for avatar in avatars):
        raise UnsafeImageError("The safety checker withholds every image. Another prompt or seed may help.")
    return avatars


@contextlib.contextmanager
def _overload_errors() -> Iterator[None]:
    """Raises: OverloadedError where a stage is busy, or Ray's object store is full."""
    try:
        yield
    except (BackPressureError, DeploymentUnavailableError):
        raise OverloadedError("A stage takes no more work now.") from None
    except (ObjectStoreFullError, OutOfDiskError):
        raise OverloadedError("There is no memory for more pictures now.") from None


def _log_retry_or_raise(error: Exception, attempt: int) -> None:
    if attempt == MAX_ATTEMPTS or isinstance(error, (BackPressureError, DeploymentUnavailableError)):
        raise error
    log.warning("a stage was lost (%s); attempt %d", type(error).__name__, attempt + 1)
