"""The saturated service over HTTP against a bare diffusers loop: the overhead around the engine.

    python -m loadtest.bench.service --json service.json

Both run the embedded model on the CPU with the same number of threads. The loop calls diffusers' pipeline with four
images at a time and a known face, and keeps the arrays. The service gets the photo with every request, detects the
face, generates, resizes, encodes, measures the similarity, stores and answers. They alternate, with a new service each
time, so that other programs on the machine slow both alike. A second table has the CPU time of an image by process,
which such programs hardly change.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from loadtest.bench.engine.live import LibraryPipeline, in_own_thread
from loadtest.bench.engine.queues import GENERATOR, Bar
from loadtest.bench.processes import cpu_s
from loadtest.load.own_service import own_service
from serve_app.client import FaceAvatarClient
from serve_app.photos.sample import sample_photo

SIDE = 256  # pixels: a native size of the model
STEPS = 12
AT_A_TIME = 4  # images, in the loop
BATCH = 4  # images of a request
CLIENTS = 6  # concurrent: more images than may share a step
LEAST = 0.9
LOOP = "the loop"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Figures of one of the two."""

    images_per_s: float
    cpu_s: dict[str, float]  # of an image, by process


@dataclass(frozen=True, slots=True)
class Round:
    """Both sides with the same number of images, one after the other."""

    loop: Drawn
    service: Drawn

    @property
    def ratio(self) -> float:
        """How many images the service makes for each one of the loop."""
        return self.service.images_per_s / self.loop.images_per_s


def measure(images: int) -> Round:
    """`images` of each side, a multiple of `BATCH`."""
    return Round(in_own_thread(lambda: loop(images)), service(images))


def loop(images: int) -> Drawn:
    """The bare pipeline."""
    config = GENERATOR.models["embedded"]
    torch.set_num_threads(config.threads)
    library = LibraryPipeline(config)
    library.draw_all([2] * AT_A_TIME, SIDE, AT_A_TIME)  # the first one is slower
    cost = library.draw_all([STEPS] * images, SIDE, AT_A_TIME)
    return Drawn(images / cost.whole_s, {LOOP: cost.cpu_s / images})


def service(images: int) -> Drawn:
    """A service that gets more requests than it can serve."""
    with (
        own_service() as running,
        FaceAvatarClient(running.url, running.token) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        request(client)  # the first one is slower
        before, started = cpu_s(), time.perf_counter()
        for answer in [pool.submit(request, client) for _ in range(-(-images // BATCH))]:
            answer.result()
        whole_s = time.perf_counter() - started
        drawn = BATCH * -(-images // BATCH)
        return Drawn(drawn / whole_s, {kind: used / drawn for kind, used in (cpu_s() - before).items()})


def request(client: FaceAvatarClient) -> None:
    """Sends the sample photo for one batch and waits for its images. Raises: ClientError."""
    photo = sample_photo()
    client.avatars.create(photo, batch=BATCH, num_inference_steps=STEPS, width=SIDE, height=SIDE).require_success()


def costs(rounds: Sequence[Round]) -> Table:
    """The CPU time of an image by process, the largest first."""
    table = Table("process", "CPU s an image, median", title="where it goes")
    kinds = {kind for each in rounds for kind in each.service.cpu_s}
    taken = {kind: statistics.median(each.service.cpu_s.get(kind, 0.0) for each in rounds) for kind in kinds}
    table.add_row(LOOP, f"{statistics.median(each.loop.cpu_s[LOOP] for each in rounds):.3f}", end_section=True)
    for kind, used in sorted(taken.items(), key=lambda entry: -entry[1]):
        table.add_row(kind, f"{used:.3f}")
    table.add_row("the service", f"{sum(taken.values()):.3f}")
    return table


def main() -> None:
    """Prints both tables. A missed bar does not change the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--images", type=int, default=96, help="of each side in a round, in fours")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = [measure(options.images) for _ in range(options.rounds)]
    bar = Bar("service / loop", statistics.median(each.ratio for each in rounds), LEAST)
    table = Table("round", "loop, images/s", "service, images/s", "service / loop", title=f"{SIDE} px, {STEPS} steps")
    for number, each in enumerate(rounds, 1):
        speeds = (f"{side.images_per_s:.2f}" for side in (each.loop, each.service))
        table.add_row(str(number), *speeds, f"{each.ratio:.2f}")
    table.add_row("median", "", "", str(bar))
    Console().print(table, costs(rounds))
    if options.json is not None:
        options.json.write_text(json.dumps({"rounds": [asdict(each) for each in rounds], "ratio": bar.value}, indent=1))


if __name__ == "__main__":
    main()
