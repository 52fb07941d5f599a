"""Three plain ways to serve the same pictures, each a server of its own, started as a process by `peers`.

    python -m loadtest.bench.peers_servers litserve --model 512 --port 8001

Each takes the request of the service (what it does not know it ignores), decodes the photo, finds and embeds the face,
draws, encodes a PNG, and answers with it as JSON. Batches hold requests of several step counts, and neither server can
put together those that are alike: a batch is drawn in groups of one step count, which is what the client asked for.
"""

import argparse
import asyncio
import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image

from deployments.background.postprocess import encode
from deployments.config import CascadeFaceModelConfig
from deployments.errors import NoFaceError
from deployments.face.model import CascadeFaceModel
from deployments.types import Photo, Pixels, Vector
from loadtest.bench.engine_queues import GENERATOR
from loadtest.bench.peers_painters import SIDES, painter_of

ROUTE = "/getImageToImage"
HOST = "127.0.0.1"
MAX_BATCH = GENERATOR.max_rows  # as many as share a step of the service

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One image that is asked for, its face found."""

    face: Vector
    seed: int
    steps: int


class Faces:
    """The photo of a request as a vector, by the service's own face model."""

    def __init__(self) -> None:
        self._model = CascadeFaceModel(CascadeFaceModelConfig())

    def order(self, body: Body) -> Order:
        """Raises: NoFaceError."""
        file = base64.b64decode(str(body["file_url"]).partition(",")[2])
        photo = Photo(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))
        (found,) = self._model.embed([photo])
        if isinstance(found, NoFaceError):
            raise found
        return Order(found.vector, int(body["seed"]), int(body["num_inference_steps"]))


class Drawing:
    """A batch on the painter: one group of a step count after the other."""

    def __init__(self, model: str) -> None:
        self._painter = painter_of(model)

    def draw(self, orders: Sequence[Order]) -> list[Pixels]:
        drawn: dict[int, Pixels] = {}
        for steps, places in by_steps(orders):
            faces, seeds = [orders[place].face for place in places], [orders[place].seed for place in places]
            drawn |= zip(places, self._painter.draw(faces, seeds, steps), strict=True)
        return [drawn[place] for place in range(len(orders))]


def by_steps(orders: Sequence[Order]) -> Iterator[tuple[int, list[int]]]:
    """The places of the orders that have a step count, the fewest steps first."""
    for steps in sorted({order.steps for order in orders}):
        yield steps, [place for place, order in enumerate(orders) if order.steps == steps]


def answer(pixels: Pixels) -> dict[str, str]:
    return {"image": base64.b64encode(encode(Image.fromarray(pixels), "png")).decode()}


def run_fastapi(model: str, port: int) -> None:
    """One image at a time, under a lock. Faces are found and files encoded meanwhile, in threads of their own."""
    import uvicorn

    app, lock = FastAPI(), asyncio.Lock()
    finder, draughtsman = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    faces = Faces()
    drawing = draughtsman.submit(Drawing, model).result()

    @app.post(ROUTE)
    async def create(body: dict[str, Any]) -> dict[str, str]:
        loop = asyncio.get_running_loop()
        order = await loop.run_in_executor(finder, faces.order, body)
        async with lock:
            (pixels,) = await loop.run_in_executor(draughtsman, drawing.draw, [order])
        return await asyncio.to_thread(answer, pixels)

    uvicorn.run(app, host=HOST, port=port, log_level="warning")


def run_litserve(model: str, port: int) -> None:
    from loadtest.bench.peers_litserve import run

    run(model, port)


def run_serve(model: str, port: int) -> None:
    from loadtest.bench.peers_rayserve import run

    run(model, port)


SERVERS = {"fastapi": run_fastapi, "litserve": run_litserve, "serve": run_serve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--model", choices=SIDES, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    SERVERS[options.server](options.model, options.port)


if __name__ == "__main__":
    main()
