"""What the pipeline does when stages fail: decisions, without Serve."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, ObjectStoreFullError, OutOfDiskError
from ray.serve import metrics
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.errors import NoFaceError
from serve_app.backends.object_store import FOLDER
from serve_app.errors import OverloadedError
from serve_app.pipeline.pipeline import MAX_ATTEMPTS, AvatarPipeline, JobResult
from serve_app.tasks.models import StoredAvatar
from tests.support.fakes import face
from tests.support.stages import AVATAR, CHAIN_BROKE, DIED, LATE, PHOTO, Embedder, Stage, run_job


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., JobResult]:
    return partial(run_job, tmp_path)


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


@pytest.mark.parametrize(("size", "asked"), [((256, 256), 0), ((1024, 1024), 0), ((1536, 256), 1), ((512, 511), 1)])
def test_where_the_face_is_matters_only_where_the_file_has_another_shape_than_the_image(
    run: Callable[..., JobResult], size: tuple[int, int], asked: int
) -> None:
    box = (52, 46, 205, 199)
    embedder, remover = Embedder(face(), places=(box,)), Stage(AVATAR)
    assert run(embedder, Stage("image"), remover, size=size).avatars
    assert len(embedder.locate.responses) == asked
    assert remover.arguments[0][2] == (box if asked else None)


def test_the_face_model_of_the_app_finds_the_face_on_photo_and_image(run: Callable[..., JobResult]) -> None:
    embedder = Embedder(replace(face(), face_model="auraface"))
    assert run(embedder, Stage("image"), Stage(AVATAR), size=(1536, 256), face_model="auraface").avatars
    assert embedder.arguments == [(PHOTO, 0.0)]
    ((_image, reference, _used_s),) = embedder.similarity.arguments
    assert reference.face_model == "auraface"
    assert embedder.named == embedder.locate.named == [{"face_model": "auraface"}]


def test_an_embedder_of_an_older_version_is_told_nothing_that_it_does_not_know(run: Callable[..., JobResult]) -> None:
    embedder = Embedder(face())
    assert run(embedder, Stage("image"), Stage(AVATAR), size=(1536, 256)).avatars
    assert embedder.arguments == [(PHOTO, 0.0)]
    ((_image, _used_s),) = embedder.locate.arguments
    assert embedder.named == embedder.locate.named == [{}]


def test_an_embedder_that_dies_while_it_looks_for_the_face_is_asked_again(run: Callable[..., JobResult]) -> None:
    generator, embedder = Stage("image"), Embedder(face(), places=(DIED, None))
    assert run(embedder, generator, Stage(AVATAR), size=(1536, 256)).avatars
    assert (len(generator.responses), len(embedder.locate.responses)) == (1, 2)


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


def test_attempts_that_were_lost_are_counted_by_their_stage(
    run: Callable[..., JobResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(metrics.Counter, "inc", lambda _, tags: counted.append(tags["stage"]))
    run(Embedder(DIED, face()), Stage(DIED, "image"), Stage(CHAIN_BROKE, DIED, AVATAR))
    assert counted == ["face", "diffusion", "finish"]


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
        run(Embedder(face()), generator, remover, batch=2, timeout_s=1)
    assert generator.responses
    assert all(response.cancelled for response in generator.responses + remover.responses)


def test_an_image_that_fails_cancels_the_others(run: Callable[..., JobResult]) -> None:
    generator, remover = Stage("image", ...), Stage(ValueError("a bug"), ...)
    with pytest.raises(ValueError, match="a bug"):
        run(Embedder(face()), generator, remover, batch=2)
    assert all(response.cancelled for response in generator.responses + remover.responses)
