"""The embedder with several face models, without Serve."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.config import FaceEmbedderConfig
from deployments.errors import NoFaceError
from deployments.face.deployment import FaceEmbedder
from deployments.types import FaceEmbedding, Photo
from tests.support.onnx_models import marker, photo_of
from tests.support.yunet_models import AURAFACE, DETECTOR, SFACE, write_open_face

# insightface aligns with a method that scikit-image has deprecated
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

SOMEONE = Photo(photo_of((marker(120, 1), 90, 60)))
NOBODY = Photo(photo_of())


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaceEmbedder]:
    folder = tmp_path_factory.mktemp("models")
    write_open_face(folder)
    models = {
        name: {"kind": "yunet", "detector": folder / DETECTOR, "recogniser": {"kind": kind, "file": folder / file}}
        for name, kind, file in (("aura", "arcface", AURAFACE), ("small", "sface", SFACE))
    }

    async def opened() -> FaceEmbedder:
        return FaceEmbedder(FaceEmbedderConfig.model_validate({"models": models}))

    with asyncio.Runner() as runner:
        yield runner.run(opened())


def test_each_photo_of_a_batch_is_read_by_the_model_that_its_app_names(embedder: FaceEmbedder) -> None:
    """The default one looks for faces, which a marker is not; the others know markers."""
    asked = [(SOMEONE, "small"), (SOMEONE, None), (NOBODY, "aura"), (SOMEONE, "aura"), (SOMEONE, "small")]
    found = embedder._embed(asked)
    read = [(face.face_model, len(face.vector)) if isinstance(face, FaceEmbedding) else None for face in found]
    assert read == [("small", 128), None, None, ("aura", 512), ("small", 128)]
    weights = [sorted(face.weights) for face in found if isinstance(face, FaceEmbedding)]
    assert weights[0] == [f"face/{DETECTOR}", f"face/{SFACE}"]
    assert weights[1] == [f"face/{DETECTOR}", f"face/{AURAFACE}"]


def test_without_a_name_the_default_model_looks(embedder: FaceEmbedder) -> None:
    async def refusals() -> list[str | None]:
        return [(await embedder.inspect(SOMEONE, 0.0, name)).refusal for name in (None, "aura")]

    assert asyncio.run(refusals()) == ["no_face", None]
    (error,) = embedder._embed([(SOMEONE, None)])
    assert isinstance(error, NoFaceError)


def test_a_caller_of_an_older_version_that_knows_one_photo_and_one_model_is_served(
    embedder: FaceEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def alone(asked: tuple[Photo, str | None]) -> FaceEmbedding | NoFaceError:
        return embedder._embed([asked])[0]

    monkeypatch.setattr(embedder, "_embed_batch", alone)
    monkeypatch.setitem(embedder._models, None, embedder._models["aura"])
    face = asyncio.run(embedder.embed(SOMEONE, 0.0))
    assert (face.face_model, len(face.vector)) == (None, 512)


def test_a_model_that_has_several_names_is_loaded_once(tmp_path: Path) -> None:
    write_open_face(tmp_path)
    recogniser = {"kind": "arcface", "file": tmp_path / AURAFACE}
    aura = {"kind": "yunet", "detector": tmp_path / DETECTOR, "recogniser": recogniser}
    models = {"aura": aura, "again": aura, "small": aura | {"min_face_px": 16}}
    config = FaceEmbedderConfig.model_validate({"model": aura, "models": models})
    assert len(config.loaded()) == 2

    async def opened() -> FaceEmbedder:
        return FaceEmbedder(config)

    models_of = asyncio.run(opened())._models
    assert models_of[None] is models_of["aura"] is models_of["again"]
    assert models_of["small"] is not models_of["aura"]
