"""Shared by the simple servers: requests, faces, and batches grouped by step count."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from deployments.background.postprocess import encode
from deployments.config import CascadeFaceModelConfig
from deployments.errors import NoFaceError
from deployments.face.model import CascadeFaceModel
from deployments.types import Photo, Pixels, Vector
from loadtest.bench.engine.queues import GENERATOR
from loadtest.bench.peers.painters import painter_of

ROUTE = "/getImageToImage"
HOST = "127.0.0.1"
MAX_BATCH = GENERATOR.max_rows  # as many as share a step of the service
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One requested image with its face vector."""

    face: Vector
    seed: int
    steps: int


class Faces:
    """Turns the photo of a request into a vector with the service's own face model."""

    def __init__(self) -> None:
        self._model = CascadeFaceModel(CascadeFaceModelConfig(likeness=None))

    def order(self, body: Body) -> Order:
        """Raises: NoFaceError."""
        file = base64.b64decode(str(body["file_url"]).partition(",")[2])
        photo = Photo(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))
        (found,) = self._model.embed([photo])
        if isinstance(found, NoFaceError):
            raise found
        return Order(found.vector, int(body["seed"]), int(body["num_inference_steps"]))


class Drawing:
    """Generates a batch: one group of equal step counts after the other."""

    def __init__(self, model: str) -> None:
        self._painter = painter_of(model)

    def draw(self, orders: Sequence[Order]) -> list[Pixels]:
        """Images in the order of `orders`. Not thread-safe, like its painter."""
        drawn: dict[int, Pixels] = {}
        for steps, places in by_steps(orders):
            faces, seeds = [orders[place].face for place in places], [orders[place].seed for place in places]
            drawn |= zip(places, self._painter.draw(faces, seeds, steps), strict=True)
        return [drawn[place] for place in range(len(orders))]


def by_steps(orders: Sequence[Order]) -> Iterator[tuple[int, list[int]]]:
    """The indices of the orders by step count, the fewest steps first."""
    for steps in sorted({order.steps for order in orders}):
        yield steps, [place for place, order in enumerate(orders) if order.steps == steps]


def answer(pixels: Pixels) -> dict[str, str]:
    """The JSON of a peer's answer: a PNG in base64 under `image`."""
    return {"image": base64.b64encode(encode(Image.fromarray(pixels), "png")).decode()}
