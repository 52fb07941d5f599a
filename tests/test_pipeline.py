"""What the pipeline does when stages fail: decisions, without Serve."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectStoreFullError, OutOfDiskError
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.errors import NoFaceError
from deployments.types import Avatar, Photo
from serve_app.backends.object_store import FOLDER, Results, StoreSettings
from serve_app.catalog.catalog import Catalog
from serve_app.errors import OverloadedError
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import MAX_ATTEMPTS, AvatarPipeline, JobResult
from serve_app.schemas.requests import AvatarRequest, EffectiveRequest
from serve_app.tasks.models import StoredAvatar
from tests.fakes import face

TASK = "018f0000-0000-7000-8000-000000000000"
PHOTO = Photo(None)  # type: ignore[arg-type]  # no stage looks at it


class Response:
    """What a call gives, or raises, or waits for without end; it knows whether it was cancelled."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        if self.outcome is ...:
            yield from asyncio.Event().wait().__await__()
        if self.outcome is LATE:
            yield from asyncio.sleep(0.05).__await__()
            return AVATAR
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True
        if isinstance(self.outcome, RayServeException):
            raise self.outcome  # as Serve does where the call never reached a replica


class Stage:
    """A deployment handle whose every method gives the next of the prepared outcomes, the last one for ever."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.responses: list[Response] = []
        self.arguments: list[tuple[Any, ...]] = []

    def __getattr__(self, _method: str) -> "Stage":
        return self

    def options(self, **_options: Any) -> "Stage":
        return self

    def remote(self, *arguments: Any) -> Response:
        self.arguments.append(arguments)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.responses.append(Response(outcome))
        return self.responses[-1]


class Embedder(Stage):
    def __init__(self, *outcomes: Any, similarity: Any = 0.5) -> None:
        super().__init__(*outcomes)
        self.similarity = Stage(similarity)


AVATAR = Avatar(b"picture", b"thumbnail", "png", startup_s=0, diffusion_s=1, finish_s=1)
LATE = object()  # `AVATAR` after a while
DIED = ActorDiedError()
CHAIN_BROKE = RayServeException("an earlier stage died")


def job(batch: int = 1, done: dict[int, StoredAvatar] | None = None) -> AvatarJob:
    request = AvatarRequest(app_id="face-avatar", file_url="https://example.org/me.jpg", batch=batch)
    app = Catalog.read(["embedded"])["face-avatar"]
    effective = EffectiveRequest.fill(request, app, seed=7, deadline_s=60)
    return AvatarJob(TASK, "ann", effective, "embedded", (256, 256), 0, done or {})


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., JobResult]:
    def run(
        embedder: Stage,
        generator: Stage,
        remover: Stage,
        batch: int = 1,
        timeout_s: float = 10,
        stored: dict[int, StoredAvatar] | None = None,
    ) -> JobResult:
        async def within() -> JobResult:
            results = Results.open(StoreSettings(), data_dir=tmp_path, signing_key=b"key", ttl_s=60)
            pipeline: Any = AvatarPipeline
            images_done = []

            async def image_done(index: int, _avatar: StoredAvatar) -> None:
                images_done.append(index)

            async with asyncio.timeout(timeout_s):
                done: JobResult = await pipeline(embedder, generator, remover, results).run(
                    job(batch, stored), PHOTO, image_done
                )
                assert len(images_done) == batch - len(stored or {})
                return done

        return asyncio.run(within())

    return run


def test_every_image_is_stored_with_its_own_seed(run: Callable[..., JobResult], tmp_path: Path) -> None:
    done = run(Embedder(face()), Stage("image"), Stage(AVATAR), batch=3)
    assert [avatar.seed for avatar in done.avatars] == [7, 8, 9]
    assert [(tmp_path / FOLDER / avatar.key).read_bytes() for avatar in done.avatars] == [b"picture"] * 3
    assert [(tmp_path / FOLDER / avatar.thumbnail_key).read_bytes() for avatar in done.avatars] == [b"thumbnail"] * 3


def test_an_image_that_is_stored_is_not_made_again(run: Callable[..., JobResult]) -> None:
    stored = StoredAvatar("kept.png", "kept.webp", 8, 0.5, 0, 1, 1, 0)
    generator = Stage("image")
    done = run(Embedder(face()), generator, Stage(AVATAR), batch=3, stored={1: stored})
    assert [spec.image_index for spec, _face in generator.arguments] == [0, 2]
    assert [avatar.seed for avatar in done.avatars] == [7, 8, 9]
    assert done.avatars[1] is stored


def test_without_a_face_no_generator_is_asked(run: Callable[..., JobResult]) -> None:
    generator = Stage("image")
    with pytest.raises(NoFaceError):
        run(Embedder(NoFaceError("no face found")), generator, Stage(AVATAR))
    assert generator.responses == []


def test_an_embedder_that_dies_is_asked_again(run: Callable[..., JobResult]) -> None:
    assert run(Embedder(DIED, face()), Stage("image"), Stage(AVATAR)).avatars


def test_a_generator_that_dies_is_asked_again(run: Callable[..., JobResult]) -> None:
    generator, remover = Stage(DIED, "image"), Stage(CHAIN_BROKE, AVATAR)
    assert run(Embedder(face()), generator, remover).avatars
    assert len(generator.responses) == 2


def test_what_was_generated_is_not_generated_again_when_only_the_finishing_died(run: Callable[..., JobResult]) -> None:
    generator, remover = Stage("image"), Stage(DIED, AVATAR)
    assert run(Embedder(face()), generator, remover).avatars
    assert (len(generator.responses), len(remover.responses)) == (1, 2)


def test_a_generator_out_of_reach_is_asked_again_though_serve_goes_on_asking_the_next_stage(
    run: Callable[..., JobResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.pipeline.calls.PATIENCE_S", 0.01)
    embedder = Embedder(face())
    embedder.similarity = Stage(..., 0.5)
    generator, remover = Stage(ActorUnavailableError("gone", None), "image"), Stage(..., AVATAR)
    assert len(run(embedder, generator, remover).avatars) == 1
    assert (len(generator.responses), len(remover.responses)) == (2, 2)
    assert remover.responses[0].cancelled
    assert embedder.similarity.responses[0].cancelled


def test_a_picture_that_takes_long_is_drawn_and_finished_once(
    run: Callable[..., JobResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.pipeline.calls.PATIENCE_S", 0.01)
    generator, remover = Stage("image"), Stage(LATE)
    assert len(run(Embedder(face()), generator, remover).avatars) == 1
    assert (len(generator.responses), len(remover.responses)) == (1, 1)


def test_a_stage_that_dies_every_time_ends_the_request(run: Callable[..., JobResult]) -> None:
    generator = Stage(DIED)
    with pytest.raises(RayServeException):
        run(Embedder(face()), generator, Stage(CHAIN_BROKE))
    assert len(generator.responses) == MAX_ATTEMPTS


def test_an_image_under_which_processes_died_is_drawn_alone(run: Callable[..., JobResult]) -> None:
    generator = Stage(DIED, DIED, DIED, "image")
    assert run(Embedder(face()), generator, Stage(CHAIN_BROKE, CHAIN_BROKE, CHAIN_BROKE, AVATAR)).avatars
    assert [spec.alone for spec, _face in generator.arguments] == [False, False, True, True]
    assert {spec.tenant for spec, _face in generator.arguments} == {"ann"}


def test_a_stage_that_gives_work_up_is_asked_again(run: Callable[..., JobResult]) -> None:
    remover = Stage(asyncio.CancelledError(), AVATAR)
    assert run(Embedder(face()), Stage("image"), remover).avatars
    assert len(remover.responses) == 2


def test_a_full_stage_is_an_overload_and_not_asked_again(run: Callable[..., JobResult]) -> None:
    embedder = Embedder(BackPressureError(1, 1))
    with pytest.raises(OverloadedError):
        run(embedder, Stage("image"), Stage(AVATAR))
    assert len(embedder.responses) == 1


@pytest.mark.parametrize("full", [ObjectStoreFullError(), OutOfDiskError()])
def test_no_room_for_pictures_is_an_overload(run: Callable[..., JobResult], full: Exception) -> None:
    pipeline: Any = AvatarPipeline
    for embedder, remover in ((Embedder(full), Stage(AVATAR)), (Embedder(face()), Stage(full))):
        with pytest.raises(OverloadedError):
            run(embedder, Stage("image"), remover)
    with pytest.raises(OverloadedError):
        asyncio.run(pipeline(Stage(full), None, None, None).inspect(PHOTO))


def test_when_time_is_over_every_call_is_cancelled(run: Callable[..., JobResult]) -> None:
    generator, remover = Stage(DIED, ...), Stage(CHAIN_BROKE, ...)
    with pytest.raises(TimeoutError):
        run(Embedder(face()), generator, remover, batch=2, timeout_s=0.2)
    assert generator.responses
    assert all(response.cancelled for response in generator.responses + remover.responses)


def test_an_image_that_fails_cancels_the_others(run: Callable[..., JobResult]) -> None:
    generator, remover = Stage("image", ...), Stage(ValueError("a bug"), ...)
    with pytest.raises(ValueError, match="a bug"):
        run(Embedder(face()), generator, remover, batch=2)
    assert all(response.cancelled for response in generator.responses + remover.responses)
