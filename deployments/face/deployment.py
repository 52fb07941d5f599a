"""The face embedder as a Serve deployment."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ray import serve

from deployments.common.checksums import FileCheck
from deployments.common.replica_exit import exit_on_device_loss
from deployments.common.startup_metrics import ColdStart
from deployments.config import FaceEmbedderConfig, FaceModelConfig
from deployments.errors import NoFaceError
from deployments.face.fair_turns import FairTurns
from deployments.face.head import head_jpeg
from deployments.face.person import one_person
from deployments.face.quality import face_warnings
from deployments.face.similarity import face_similarity
from deployments.types import Box, FaceEmbedding, FoundFaces, GeneratedImage, Photo

MAX_YIELD_S = 2.0  # the longest wait of the call that yields to others and is next; the rest queue behind it


FaceModelName = str | None
"""A name of `face.models`; None: `face.model`, which apps use that name no other."""


class FaceEmbedder:
    """Finds and embeds the largest face of each photo; photos of several requests share a batch.

    `face_model` is the name of the model that does it.
    """

    def __init__(self, config: FaceEmbedderConfig, files: FileCheck | None = None) -> None:
        start = ColdStart()
        if files is not None:
            files.check()
        with start.part("import"):
            # Imported here, so that building the graph loads no model library.
            from deployments.face.model import load_face_model
        with start.part("load"):
            self._configs: dict[FaceModelName, FaceModelConfig] = {None: config.model} | config.models
            loaded = {model: load_face_model(model) for model in config.loaded()}
            self._models = {name: loaded[model] for name, model in self._configs.items()}
        with start.part("warm"):
            blank = np.zeros((256, 256, 3), np.uint8)
            for model in loaded.values():
                model.embed([Photo(blank), Photo(blank, is_generated=True)])
        start.publish()
        self._head_px = config.head_px
        self._turns = FairTurns(MAX_YIELD_S)
        self._model_lock = asyncio.Lock()  # one thread at a time: no face library documents that it is thread-safe
        self._embed_batch.set_max_batch_size(config.max_batch_size)
        self._embed_batch.set_batch_wait_timeout_s(config.batch_wait_s)

    async def embed(
        self, photo: Photo, used_s: float = 0.0, face_model: FaceModelName = None, others: Sequence[Photo] = ()
    ) -> FaceEmbedding:
        """The face of the person on the photo, and on others of the same person.

        `used_s`: what the tenant used recently before this stage, seconds. Raises: NoFaceError; OtherPersonError.
        """
        photos = (photo, *others)
        async with self._turns.turn(used_s):
            found: list[FaceEmbedding | NoFaceError] = await asyncio.gather(
                *(self._embed_batch((one, face_model)) for one in photos)
            )
        face = one_person(found, self._configs[face_model])
        face = replace(face, warnings=await asyncio.to_thread(_warnings, photos, found))
        if self._head_px is None:
            return face
        return replace(face, heads=await asyncio.to_thread(_heads, photos, found, self._head_px))

    async def inspect(self, photo: Photo, used_s: float = 0.0, face_model: FaceModelName = None) -> FoundFaces:
        """The faces of a photo and whether it is usable, without generating anything."""
        async with self._turns.turn(used_s), self._model_lock:
            with exit_on_device_loss():
                return await asyncio.to_thread(self._models[face_model].inspect, photo)

    async def similarity(self, image: GeneratedImage, reference: FaceEmbedding, used_s: float = 0.0) -> float | None:
        """Cosine of the two faces by the model of the reference, -1..1; None where the image shows no face."""
        async with self._turns.turn(used_s):
            avatar = Photo(image.pixels, is_generated=True)
            found: FaceEmbedding | NoFaceError = await self._embed_batch((avatar, reference.face_model))
        return None if isinstance(found, NoFaceError) else face_similarity(found, reference)

    async def locate(self, image: GeneratedImage, used_s: float = 0.0, face_model: FaceModelName = None) -> Box | None:
        """Where the largest face is on a generated image, in its pixels; None where it shows no face."""
        async with self._turns.turn(used_s):
            avatar = Photo(image.pixels, is_generated=True)
            found: FaceEmbedding | NoFaceError = await self._embed_batch((avatar, face_model))
        return None if isinstance(found, NoFaceError) else found.box

    @serve.batch
    async def _embed_batch(self, asked: list[tuple[Photo, FaceModelName]]) -> list[FaceEmbedding | NoFaceError]:
        async with self._model_lock:
            with exit_on_device_loss():
                return await asyncio.to_thread(self._embed, asked)

    def _embed(self, asked: Sequence[tuple[Photo, FaceModelName]]) -> list[FaceEmbedding | NoFaceError]:
        """Each model takes its photos together."""
        found: dict[int, FaceEmbedding | NoFaceError] = {}
        for name in dict.fromkeys(name for _, name in asked):
            places = [place for place, (_, of) in enumerate(asked) if of == name]
            faces = self._models[name].embed([asked[place][0] for place in places])
            found |= zip(places, (_named(face, name) for face in faces), strict=True)
        return [found[place] for place in range(len(asked))]


def _named(face: FaceEmbedding | NoFaceError, face_model: FaceModelName) -> FaceEmbedding | NoFaceError:
    return replace(face, face_model=face_model) if isinstance(face, FaceEmbedding) else face


def _warnings(photos: Sequence[Photo], faces: Sequence[FaceEmbedding | NoFaceError]) -> tuple[tuple[str, ...], ...]:
    """Of each photo, all of which have a face."""
    both = zip(photos, faces, strict=True)
    return tuple(
        face_warnings(photo.pixels, face.box, face.landmarks) for photo, face in both if isinstance(face, FaceEmbedding)
    )


def _heads(photos: Sequence[Photo], faces: Sequence[FaceEmbedding | NoFaceError], side: int) -> tuple[bytes, ...]:
    """Of each photo, all of which have a face."""
    both = zip(photos, faces, strict=True)
    return tuple(head_jpeg(photo.pixels, face, side) for photo, face in both if isinstance(face, FaceEmbedding))
