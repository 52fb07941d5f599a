"""`min_similarity`: what is drawn again, what is kept, and when it ends. Without Serve."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError

from deployments.types import Avatar, GenerationMetadata
from serve_app.backends.object_store import FOLDER, Results, StoreSettings
from serve_app.catalog.catalog import Catalog
from serve_app.errors import OverloadedError
from serve_app.generation.envelope import receipt
from serve_app.pipeline.job import AvatarJob
from serve_app.pipeline.pipeline import AvatarPipeline
from serve_app.schemas.requests import MAX_SEED, AvatarRequest, EffectiveRequest
from serve_app.tasks.models import StoredAvatar
from tests.support.fakes import face
from tests.support.stages import PHOTO, TASK, Embedder, Stage

WITH = GenerationMetadata("m", {"unet": "ab"}, "Euler", {}, 0.8, None, "float32", "cpu", {"torch": "2"})


def avatar(name: str, diffusion_s: float = 1.0) -> Avatar:
    return Avatar(name.encode(), b"thumbnail", "png", 0, diffusion_s, 1, WITH, f"sha of {name}")


def job(*, batch: int = 1, seed: int = 7, least: float | None = 0.6, deadline_s: float = 60) -> AvatarJob:
    request = AvatarRequest(
        app_id="face-avatar", file_url="https://example.org/me.jpg", batch=batch, min_similarity=least
    )
    app = Catalog.read(["embedded"])["face-avatar"]
    effective = EffectiveRequest.fill(request, app, seed=seed, deadline_s=deadline_s)
    return AvatarJob(TASK, "ann", effective, "embedded", (256, 256), time.time())


def test_what_a_request_leaves_out_is_the_least_likeness_of_its_app(tmp_path: Path) -> None:
    app = Catalog.read(["embedded"])["face-avatar"]
    choosy = app.model_copy(update={"defaults": app.defaults.model_copy(update={"min_similarity": 0.6})})
    request = AvatarRequest(app_id="face-avatar", file_url="https://example.org/me.jpg")
    work = replace(job(), request=EffectiveRequest.fill(request, choosy, seed=7, deadline_s=60))
    assert [attempt.seed for attempt in drawn(tmp_path, work, [0.5, 0.7])[0].attempts] == [7, 8]
    easy = request.model_copy(update={"min_similarity": 0.4})
    work = replace(work, request=EffectiveRequest.fill(easy, choosy, seed=7, deadline_s=60))
    assert [attempt.seed for attempt in drawn(tmp_path, work, [0.5, 0.7])[0].attempts] == [7]


def drawn(
    folder: Path,
    work: AvatarJob,
    similarities: list[float | None],
    refused: Stage | None = None,
    generator: Any = None,
) -> list[StoredAvatar]:
    """The images of a job whose drawings have these similarities, one after the other."""
    embedder: Any = Embedder(replace(face(), weights={"face/encoder.onnx": "cd"}))
    embedder.similarity = Stage(*similarities)
    remover: Any = refused or Stage(*(avatar(f"drawing {number}") for number in range(len(similarities))))
    results = Results.open(StoreSettings(), data_dir=folder, signing_key=b"key", ttl_s=60)
    pipeline = AvatarPipeline(embedder, generator or Stage("image"), remover, results)

    async def ignore(_index: int, _avatar: StoredAvatar) -> None:
        return

    return asyncio.run(pipeline.run(work, [PHOTO], ignore)).avatars


@pytest.mark.parametrize(
    ("similarities", "kept", "seeds"),
    [
        ([0.7], 0, [7]),
        ([0.6], 0, [7]),
        ([0.2, 0.7], 1, [7, 8]),
        ([0.2, 0.5, 0.4], 1, [7, 8, 9]),
        ([0.5, 0.5, 0.5], 0, [7, 8, 9]),
        ([None, -0.5, None], 1, [7, 8, 9]),
        ([None, None, None], 0, [7, 8, 9]),
    ],
)
def test_what_is_less_like_is_drawn_again_and_the_best_is_kept(
    tmp_path: Path, similarities: list[float | None], kept: int, seeds: list[int]
) -> None:
    generator = Stage("image")
    (stored,) = drawn(tmp_path, job(), similarities, generator=generator)
    assert [spec.seed for spec, _face in generator.arguments] == seeds  # drawn so often, and no more
    assert [(attempt.seed, attempt.face_similarity) for attempt in stored.attempts] == list(
        zip(seeds, similarities, strict=True)
    )
    assert (stored.seed, stored.face_similarity) == (seeds[kept], similarities[kept])
    assert (tmp_path / FOLDER / stored.key).read_bytes() == f"drawing {kept}".encode()
    assert stored.diffusion_s == len(similarities)
    assert stored.drawn_sha256 == f"sha of drawing {kept}"


def test_without_a_bound_nothing_is_drawn_again(tmp_path: Path) -> None:
    generator = Stage("image")
    (stored,) = drawn(tmp_path, job(least=None), [None], generator=generator)
    assert len(stored.attempts) == len(generator.arguments) == 1


def test_nothing_is_drawn_again_that_would_come_too_late(tmp_path: Path) -> None:
    late = job(deadline_s=60)
    work, generator = AvatarJob(TASK, "ann", late.request, "m", (256, 256), time.time() - 60), Stage("image")
    (stored,) = drawn(tmp_path, work, [0.1], generator=generator)
    assert stored.face_similarity == 0.1
    assert len(stored.attempts) == len(generator.arguments) == 1


def test_a_redraw_that_no_replica_takes_costs_nothing_that_is_drawn(tmp_path: Path) -> None:
    refusal = BackPressureError(num_queued_requests=1, max_queued_requests=1)
    (stored,) = drawn(tmp_path, job(), [0.1], Stage(avatar("drawing 0"), refusal))
    assert (stored.seed, len(stored.attempts)) == (7, 1)
    with pytest.raises(OverloadedError):
        drawn(tmp_path, job(), [0.1], Stage(refusal))


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_no_two_drawings_of_a_task_share_a_seed_and_each_can_be_asked_for(seed: int) -> None:
    work = job(batch=8, seed=seed)
    seeds = [work.seed(index, redraw) for index in range(8) for redraw in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= value <= MAX_SEED + 7 for value in seeds)
    assert [work.seed(index, 0) for index in range(8)] == list(range(seed, seed + 8))


def test_a_receipt_tells_what_was_kept_and_what_it_was_drawn_with(tmp_path: Path) -> None:
    work = job()
    (stored,) = drawn(tmp_path, work, [0.2, 0.7])
    made = receipt(work.request, stored)
    assert made is not None
    assert made.weights == {"unet": "ab", "face/encoder.onnx": "cd"}
    assert (made.seed, made.ip_adapter_scale) == (8, 0.8)
    assert (made.drawn_width, made.width, made.drawn_sha256) == (256, 512, "sha of drawing 1")
    assert made.versions.keys() == {"face-avatar", "torch"}
    assert made.prompt == work.request.prompt
    own_scale = work.request.model_copy(update={"ip_adapter_scale": 0.3})
    assert (receipt(own_scale, stored) or made).ip_adapter_scale == 0.3


def test_an_avatar_of_an_older_record_has_no_receipt() -> None:
    assert receipt(job().request, StoredAvatar("k", "t", 7, None, 0, 0, 0, 0)) is None
