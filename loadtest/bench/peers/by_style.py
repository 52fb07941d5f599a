"""Simple servers of requests with a style each: a GPU that swaps LoRAs between its batches, or a GPU for every style.

    python -m loadtest.bench.peers.by_style swaps --costs costs.json --port 8001

They take the requests of `servers`, which may name a style. A batch holds one style and one step count, and a GPU
sleeps as long as it takes, and as long as `set_adapters` does where the style is another than before; all that beside
each other costs the processor nothing, as on GPUs of their own.
"""

import argparse
import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from loadtest.bench.engine.lora_costs import LoraCosts
from loadtest.bench.engine.queues import Arrival, Batches, Curve
from loadtest.bench.engine.styles import LOOKS, by_style_and_steps
from loadtest.bench.peers.painters import CURVE, SIDES, picture
from loadtest.bench.peers.protocol import HOST, ROUTE, Faces, answer

SWAPS, REPLICAS = "swaps", "replicas"
SERVERS = {SWAPS: "set_adapters, a batch a style", REPLICAS: "a GPU a style"}


class Gpu:
    """Sleeps for batches, one after the other; the oldest image chooses which. Of one event loop."""

    def __init__(self, costs: LoraCosts | None = None, curve: Curve = CURVE) -> None:
        """With `costs` it has the adapters of all styles; without it its one style is merged into the weights."""
        self._arrivals: list[Arrival] = []
        choice = by_style_and_steps(self._arrivals, curve)
        swapping = () if costs is None else (costs.adapter, costs.swap_s)
        self._batches = Batches(self._arrivals, curve, choice, *swapping)
        self._drawn: dict[int, asyncio.Event] = {}
        self._work: asyncio.Task[None] | None = None

    async def draw(self, steps: int, style: str | None) -> None:
        """Until the batch that has the image is done."""
        number, drawn = len(self._arrivals), asyncio.Event()
        self._arrivals.append(Arrival(0.0, steps, style))
        self._drawn[number] = drawn
        self._batches.add(number, 0.0)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._draw_all())
        await drawn.wait()

    async def _draw_all(self) -> None:
        while len(self._batches):
            seconds, batch = self._batches.work(0.0)
            await asyncio.sleep(seconds)
            for number in batch:
                self._drawn.pop(number).set()


def gpus_of(server: str, costs: LoraCosts) -> Mapping[str | None, Gpu]:
    """Of each look the GPU that draws it, by a name of SERVERS."""
    if server == SWAPS:
        return dict.fromkeys(LOOKS, Gpu(costs))
    return {look: Gpu() for look in LOOKS}


def app_of(gpus: Mapping[str | None, Gpu]) -> FastAPI:
    """Faces are detected and files encoded on other threads, as by the server of `servers`."""
    app, finder, faces = FastAPI(), ThreadPoolExecutor(1), Faces()

    @app.post(ROUTE)
    async def create(body: dict[str, Any]) -> dict[str, str]:
        order = await asyncio.get_running_loop().run_in_executor(finder, faces.order, body)
        style = body.get("style")
        await gpus[style].draw(order.steps, style)
        return await asyncio.to_thread(answer, picture(SIDES[CURVE.name]))

    return app


def main() -> None:
    """Runs the server that is asked for in this process, until it is stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--costs", type=Path, required=True, help="what LoRAs cost, as JSON")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    costs = LoraCosts(**json.loads(options.costs.read_text()))
    uvicorn.run(app_of(gpus_of(options.server, costs)), host=HOST, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
