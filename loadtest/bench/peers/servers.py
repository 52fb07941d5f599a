"""Three simple servers of the same images, each started as a process by `peers`.

    python -m loadtest.bench.peers.servers litserve --model 512 --port 8001

Each takes the request of the service (ignoring unknown fields), decodes the photo, detects and embeds the face,
generates, encodes a PNG, and answers with it as JSON. Batches hold requests of several step counts, as neither LitServe
nor Ray Serve can group equal ones: a batch is processed in groups of one step count, which the client asked for.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI

from loadtest.bench.peers.painters import SIDES
from loadtest.bench.peers.protocol import HOST, ROUTE, Drawing, Faces, answer


def run_fastapi(model: str, port: int) -> None:
    """One image at a time, under a lock. Faces are detected and files encoded meanwhile on other threads."""
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
    """Runs `litserve_server`, and imports LitServe only then. Blocks."""
    from loadtest.bench.peers.litserve_server import run

    run(model, port)


def run_serve(model: str, port: int) -> None:
    """Runs `rayserve_server`, and starts Ray only then. Blocks."""
    from loadtest.bench.peers.rayserve_server import run

    run(model, port)


SERVERS = {"fastapi": run_fastapi, "litserve": run_litserve, "serve": run_serve}


def main() -> None:
    """Runs the server that is asked for in this process, until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--model", choices=SIDES, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    SERVERS[options.server](options.model, options.port)


if __name__ == "__main__":
    main()
