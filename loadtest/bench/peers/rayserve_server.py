"""The Ray Serve peer with @serve.batch: one replica for the one device.

Faces are detected and files encoded on other threads while the previous batch runs.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import ray
from ray import serve
from starlette.requests import Request

from deployments.types import Pixels
from loadtest.bench.peers.protocol import HOST, MAX_BATCH, ROUTE, Drawing, Faces, Order, answer

ONGOING = 1000  # none is refused

# Serve closes a batch after this time even while the previous one runs. Simulated on the 512 curve: with 0.01 batches
# hold one image and the throughput is that of batch size 1; with 1 it is as with any longer wait, and the p95 at the
# measured loads is the lowest or close to it.
BATCH_WAIT_S = 1.0


class Batched:
    """A replica: faces on one thread, images on another, which has made the painter too; PNGs on further threads."""

    def __init__(self, model: str) -> None:
        self._finder, self._draughtsman = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._faces = Faces()
        self._drawing = self._draughtsman.submit(Drawing, model).result()

    async def __call__(self, request: Request) -> dict[str, str]:
        """Serve calls it for each HTTP request; it waits for the batch that has its order. Raises: NoFaceError."""
        body = await request.json()
        order = await asyncio.get_running_loop().run_in_executor(self._finder, self._faces.order, body)
        return await asyncio.to_thread(answer, await self._draw(order))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)  # type: ignore[untyped-decorator]
    async def _draw(self, orders: list[Order]) -> list[Pixels]:
        return await asyncio.get_running_loop().run_in_executor(self._draughtsman, self._drawing.draw, orders)


def run(model: str, port: int) -> None:
    """Starts a Ray of its own with one replica, and blocks until the process is stopped."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": HOST, "port": port})
    deployment = serve.deployment(Batched).options(max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 1})
    serve.run(deployment.bind(model), route_prefix=ROUTE)
    threading.Event().wait()
