"""`start_deadline_s` in the pipeline: what ends before a generator has an image, and what has begun. Without Serve."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.common import time_limit
from deployments.errors import NotBegunError, UnsafeImageError
from serve_app.pipeline.job_start import JobStart
from serve_app.pipeline.pipeline import JobResult
from tests.support.fakes import face
from tests.support.stages import AVATAR, CHAIN_BROKE, DIED, UNASSIGNED, Embedder, Response, Stage, run_job

SOON_S, LATER_S = 0.05, 60.0
LATE = NotBegunError.within(LATER_S)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., JobResult]:
    return partial(run_job, tmp_path)


def starts_of(generator: Stage) -> list[bool]:
    """Of each call, whether its image had a start deadline."""
    return [spec.start_deadline is not None for spec, _face in generator.arguments]


def test_an_embedder_that_does_not_answer_in_time_ends_the_job_and_no_generator_is_asked(
    run: Callable[..., JobResult],
) -> None:
    embedder, generator = Embedder(...), Stage("image")
    with pytest.raises(NotBegunError):
        run(embedder, generator, Stage(AVATAR), start_deadline_s=SOON_S)
    assert all(response.cancelled for response in embedder.responses)
    assert not generator.responses


def test_images_that_no_replica_takes_in_time_are_not_drawn(
    run: Callable[..., JobResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(time=lambda: now[0]))

    class Absent(Stage):
        def remote(self, *arguments: Any, **named: Any) -> Response:
            now[0] += 2 * LATER_S  # so the face was there in time
            return super().remote(*arguments, **named)

    generator, remover = Absent(UNASSIGNED), Stage(AVATAR)
    with pytest.raises(NotBegunError, match="within 60 s"):
        run(Embedder(face()), generator, remover, batch=2, start_deadline_s=LATER_S)
    assert [response.cancelled for response in generator.responses] == [True, True]
    assert not remover.responses


def test_a_job_of_whose_images_none_began_in_time_is_over(run: Callable[..., JobResult]) -> None:
    generator = Stage("image")
    with pytest.raises(NotBegunError, match="within 60 s"):
        run(Embedder(face()), generator, Stage(LATE), batch=3, start_deadline_s=LATER_S)
    assert starts_of(generator) == [True] * 3


def test_an_image_that_was_given_up_is_drawn_where_another_one_of_its_job_has_begun(
    run: Callable[..., JobResult],
) -> None:
    generator = Stage("image")
    done = run(Embedder(face()), generator, Stage(LATE, AVATAR), batch=2, start_deadline_s=LATER_S)
    assert [avatar.seed for avatar in done.avatars] == [7, 8]
    assert starts_of(generator) == [True, True, False]
    assert [spec.image_index for spec, _face in generator.arguments] == [0, 1, 0]


def test_a_job_of_which_an_image_was_drawn_and_withheld_has_begun(run: Callable[..., JobResult]) -> None:
    generator = Stage("image")
    done = run(Embedder(face()), generator, Stage(LATE, UnsafeImageError("no"), AVATAR), batch=2, start_deadline_s=60)
    assert [avatar.withheld for avatar in done.avatars] == [False, True]


def test_an_image_whose_replica_died_has_begun(run: Callable[..., JobResult]) -> None:
    generator = Stage(DIED, "image")
    assert run(Embedder(face()), generator, Stage(CHAIN_BROKE, AVATAR), start_deadline_s=LATER_S).avatars
    assert starts_of(generator) == [True, False]


def test_images_wait_for_each_other_until_it_is_known_whether_one_has_begun() -> None:
    async def scenario() -> None:
        start = JobStart(3)
        waiting = [asyncio.ensure_future(start.image_given_up(LATE)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        start.image_begun()
        assert await asyncio.gather(*waiting) == [None, None]
        await start.image_given_up(LATE)  # another one that comes later

    asyncio.run(scenario())
