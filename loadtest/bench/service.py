"""The whole service over HTTP, saturated, against a bare diffusers loop: what all that is around the engine costs.

    python -m loadtest.bench.service --json service.json

Both draw with the model that ships with the package, on the CPU, with the same number of threads. The loop calls
diffusers' pipeline with four images at a time and a face that is known already, and keeps the arrays. The service gets
the photo with every request, finds its face, draws, resizes, encodes, measures the similarity, stores and answers. They
take turns, each service started anew, so that another program on the machine slows both alike.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine_live import LibraryPipeline, in_own_thread
from loadtest.bench.engine_queues import GENERATOR, Bar
from serve_app.auth import TOKEN_FILE
from serve_app.client import FaceAvatarClient
from serve_app.demo import sample_photo
from serve_app.local import ServiceOptions, free_port, run_service

SIDE = 256  # pixels: a native size of the model
STEPS = 12
AT_A_TIME = 4  # of the loop
BATCH = 4  # of a request
CLIENTS = 6  # at once: more images than may share a step
LEAST = 0.9


@dataclass(frozen=True, slots=True)
class Round:
    loop_per_s: float  # images
    service_per_s: float

    @property
    def ratio(self) -> float:
        return self.service_per_s / self.loop_per_s


def measure(images: int) -> Round:
    return Round(in_own_thread(lambda: loop(images)), service(images))


def loop(images: int) -> float:
    """Images a second of the bare pipeline."""
    config = GENERATOR.models["embedded"]
    torch.set_num_threads(config.threads)
    library = LibraryPipeline(config)
    library.draw_all([2] * AT_A_TIME, SIDE, AT_A_TIME)  # the first one is slower
    return images / library.draw_all([STEPS] * images, SIDE, AT_A_TIME).whole_s


def service(images: int) -> float:
    """Images a second of a service of its own that gets more requests than it can serve."""
    with tempfile.TemporaryDirectory(prefix="face-avatar-") as folder:
        data_dir = Path(folder)
        with run_service(ServiceOptions(port=free_port(), data_dir=data_dir)) as running:
            token = (data_dir / TOKEN_FILE).read_text().strip()
            with FaceAvatarClient(running.url, token) as client, ThreadPoolExecutor(CLIENTS) as pool:
                request(client)  # the first one is slower
                started = time.perf_counter()
                for answer in [pool.submit(request, client) for _ in range(images // BATCH)]:
                    answer.result()
                return images / (time.perf_counter() - started)


def request(client: FaceAvatarClient) -> None:
    photo = sample_photo()
    client.avatars.create(photo, batch=BATCH, num_inference_steps=STEPS, width=SIDE, height=SIDE).require_success()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--images", type=int, default=96, help="of each side in a round, in fours")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [measure(options.images) for _ in range(options.rounds)]
    bar = Bar("service / loop", statistics.median(each.ratio for each in rounds), LEAST)
    table = Table("round", "loop, images/s", "service, images/s", "service / loop", title=f"{SIDE} px, {STEPS} steps")
    for number, each in enumerate(rounds, 1):
        table.add_row(str(number), f"{each.loop_per_s:.2f}", f"{each.service_per_s:.2f}", f"{each.ratio:.2f}")
    table.add_row("median", "", "", str(bar))
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"rounds": [asdict(each) for each in rounds], "ratio": bar.value}, indent=1))


if __name__ == "__main__":
    main()
