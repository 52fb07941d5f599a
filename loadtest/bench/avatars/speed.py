"""Load time and time of one avatar in a fresh process, as in a replica.

python -m loadtest.bench.avatars.speed --weights deployments/embedded/weights --threads 2 --dtype float32
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.config import WEIGHTS, DiffusionModelConfig
from deployments.embedded.training.data.captions import default_caption
from deployments.types import AvatarSpec
from loadtest.bench.random_face import random_face

IMAGES = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one process, in seconds; images are 256 x 256 pixels."""

    load_s: float  # without importing the libraries
    avatar_s: float  # median, without the first one
    avatar_cpu_s: float  # of all threads: where it is far below threads times `avatar_s`, the machine was busy


def measured_in_a_fresh_process(weights: Path, threads: int, steps: int, guidance: float) -> Speed:
    """The times without anything that the calling process has loaded or warmed up.

    Raises: subprocess.CalledProcessError.
    """
    arguments = ["--weights", weights, "--threads", threads, "--steps", steps, "--guidance", guidance]
    command = [sys.executable, "-m", "loadtest.bench.avatars.speed", *map(str, arguments)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return Speed(**json.loads(ran.stdout.splitlines()[-1]))


def measure(config: DiffusionModelConfig, steps: int, guidance: float) -> Speed:
    """Loads the model in this process and generates `IMAGES` images of 256 x 256 pixels, one after the other."""
    from deployments.diffusion.model.denoiser import FaceDiffusionModel

    started = time.perf_counter()
    model = FaceDiffusionModel.load(config)
    load_s = time.perf_counter() - started
    times_s, started_cpu = [], time.process_time()
    for seed in range(IMAGES):
        spec = AvatarSpec(
            model="embedded", seed=seed, prompt=default_caption("person"), negative_prompt="", width=256, height=256,
            num_inference_steps=steps, guidance_scale=guidance, task_id="", image_index=0, submitted_at=0.0,
            deadline=0.0,
        )  # fmt: skip
        started = time.perf_counter()
        sample = model.start(spec, random_face(0))
        for _ in sample.plan.steps:
            model.step([sample])
        model.decode(sample)
        times_s.append(time.perf_counter() - started)
    cpu_s = (time.process_time() - started_cpu) / IMAGES
    return Speed(load_s, statistics.median(times_s[1:]), cpu_s)


def main() -> None:
    """Prints the times as one line of JSON, for `measured_in_a_fresh_process`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    options = parser.parse_args()
    folder = options.weights / "diffusion"
    config = DiffusionModelConfig(
        path=folder,
        ip_adapter=folder / "ip-adapter-faceid.safetensors",
        threads=options.threads,
        dtype=options.dtype,
    )
    print(json.dumps(asdict(measure(config, options.steps, options.guidance))))


if __name__ == "__main__":
    main()
