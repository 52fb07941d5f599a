"""The speed of SDXL and Stable Diffusion 1.5 with FaceID on a GPU, through the project's own model class.

    python -m loadtest.bench.gpu --json gpu.json

The models are full-size, with random weights: nothing is downloaded. All images have guidance, so B images are 2 B
rows of the UNet's batch. Steps are those of production: compiled, with the rows that there are padded to the next of
the compiled batch sizes. Then the service's engine draws images that join and leave all the time, and the gaps between
its steps are measured by the device's clock. MFU is relative to the speed of a large matrix product in the same run.
Figures are printed and written to the JSON file as they arrive. `--tiny` runs all of it with tiny models on the CPU:
its figures are meaningless.
"""

import argparse
import gc
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch._dynamo

from deployments.config import CompileScope
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.face_encoder import FaceVectors
from deployments.diffusion.model.loader import FacePipeline, use_channels_last
from loadtest.bench.gpu.figures import Curve, Figure, ModelSize, Report, StepTime, VariantTime
from loadtest.bench.gpu.measure import Bench, matrix_product
from loadtest.bench.gpu.models import FULL, TINY, Architecture, add_face_adapter, random_pipeline, weights_of
from loadtest.bench.gpu.profile import profile_gaps

NO_CUDA = 2  # exit code
DTYPES = ("bfloat16", "float32")
# How often torch may compile the same code: all transformer blocks share theirs, and each shape compiles again.
RECOMPILE_LIMIT = 128


@dataclass(frozen=True, slots=True)
class Variant:
    """A way of running a model. The defaults are the service's on a GPU."""

    channels_last: bool = True
    cudnn_benchmark: bool = False
    compiles: CompileScope | None = "unet"  # each transformer block separately, or the whole UNet
    mode: str = "default"  # of torch.compile; the service has no other

    def apply(self, pipeline: FacePipeline, backend: str) -> None:
        """Changes the pipeline in place, and cuDNN's setting for the whole process; `backend` is torch.compile's.

        What is not compiled by the model itself is compiled in the first step of each shape, which may raise whatever
        the compiler raises.
        """
        torch.compiler.reset()
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        if self.channels_last:
            use_channels_last(pipeline)
        if self.mode != "default":
            pipeline.unet.compile(backend=backend, dynamic=False, mode=self.mode)

    @property
    def is_compiled_by_the_model(self) -> bool:
        """Ahead of its steps, as in the service."""
        return self.compiles is not None and self.mode == "default"


SERVED = Variant()
VARIANTS: Mapping[str, Variant] = {
    "served": SERVED,
    "blocks": Variant(compiles="blocks"),
    "uncompiled": Variant(compiles=None),
    "contiguous": Variant(compiles=None, channels_last=False),
    "cudnn-benchmark": Variant(compiles=None, cudnn_benchmark=True),
    "cudagraphs": Variant(mode="reduce-overhead"),
    "autotuned": Variant(mode="max-autotune-no-cudagraphs"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The measurements of a run. Sizes are of squares; without sizes those of the architecture are used."""

    architectures: Mapping[str, Architecture]
    sizes_px: Sequence[int]
    rows: Sequence[int]
    steps: Sequence[int]
    variants: Sequence[str]
    variant_rows: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    matrix_side: int
    repeats: int
    compile_backend: str
    profiled_images: int


class GpuBench:
    """Runs a plan, figure by figure."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._matrices = matrix_product(plan.matrix_side, plan.device, plan.dtype, repeats=2 * plan.repeats)

    def measure(self) -> Iterator[tuple[str, Figure]]:
        """Yields (subject, figure) as they are measured."""
        yield "matrices", self._matrices
        for name, architecture in self._plan.architectures.items():
            for figure in self._served(architecture):
                yield name, figure
            for variant in self._plan.variants:
                for time_ in self._variant(architecture, variant):
                    yield name, time_

    def _served(self, architecture: Architecture) -> Iterator[Figure]:
        """All figures of a model with the service's settings."""
        plan, sizes_px = self._plan, self._plan.sizes_px or architecture.sizes_px
        pipeline = self._build(architecture)
        yield ModelSize(*weights_of(pipeline))
        SERVED.apply(pipeline, plan.compile_backend)
        bench = self._bench(pipeline, SERVED)
        yield bench.start_time(sizes_px[-1])
        times: list[StepTime] = []
        for size_px in sizes_px:
            for step_time in bench.step_times(size_px, plan.rows, plan.compile_backend):
                times.append(step_time)
                yield step_time
        yield from Curve.through(times)
        for size_px in sizes_px:
            yield profile_gaps(bench.model, size_px, plan.profiled_images, plan.steps)
        yield from map(bench.decode_time, sizes_px)
        for size_px, rows, steps in product(sizes_px, plan.rows, plan.steps):
            yield bench.images(size_px, rows, steps)

    def _variant(self, architecture: Architecture, name: str) -> Iterator[VariantTime]:
        """A step and a decode at the model's own size."""
        pipeline, size_px, variant = self._build(architecture), architecture.own_size_px, VARIANTS[name]
        bench, backend = self._bench(pipeline, variant), self._plan.compile_backend
        tflop = bench.step_tflop(size_px)  # excluded from the compile time
        variant.apply(pipeline, backend)
        for rows in self._plan.variant_rows:
            try:
                compile_s = bench.compile_s(size_px, rows, backend) if variant.is_compiled_by_the_model else 0.0
                first_s, step_s = bench.step_s(size_px, rows)
                decode_s = bench.decode_s(size_px)
            except (OutOfMemoryError, RuntimeError) as error:
                # Compilers fail in many ways; the next variant may work.
                yield VariantTime(name, size_px, rows, failure=f"{type(error).__name__}: {error}".partition("\n")[0])
            else:
                mfu = bench.mfu(rows * tflop, step_s)
                yield VariantTime(name, size_px, rows, compile_s + first_s, 1000 * step_s, mfu, 1000 * decode_s)

    def _build(self, architecture: Architecture) -> FacePipeline:
        """The pipeline of a model, after the previous one is freed."""
        gc.collect()
        torch.cuda.empty_cache()
        pipeline = random_pipeline(architecture, self._plan.device, self._plan.dtype)
        add_face_adapter(pipeline)
        return pipeline

    def _bench(self, pipeline: FacePipeline, variant: Variant) -> Bench:
        plan = self._plan
        scope: CompileScope = variant.compiles or "unet"
        model = FaceDiffusionModel(pipeline, FaceVectors(), on_compile_failure=_fail, compile_scope=scope)
        return Bench(model, plan.device, plan.repeats, self._matrices.tflop_per_s)


def _fail() -> None:
    """In the service such a shape runs uncompiled, which would be measured in the place of what was asked for."""
    raise RuntimeError("its compiler failed: the log has its error")


def main(arguments: Sequence[str] | None = None) -> None:
    """`arguments` of None: those of the process. Exits with `NO_CUDA` where torch finds no GPU, unless `--tiny`."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.exit(NO_CUDA, f"torch {torch.__version__} finds no CUDA device here (--tiny runs on the CPU)\n")
    if unknown := set(options.variants or ()) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    diffusers.utils.logging.set_verbosity_error()
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    if options.tiny:
        torch.set_num_threads(1)
    plan = _plan(options)
    report = Report(_setting(plan), options.json)
    for subject, figure in GpuBench(plan).measure():
        report.add(subject, figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*FULL, "both"], default="both")
    parser.add_argument("--sizes", type=_numbers, default=(), help="pixels of a side, such as 512,1024")
    parser.add_argument("--rows", type=_numbers, help="images that share a step (1,2,4,5,8)")
    parser.add_argument("--steps", type=_numbers, help="steps of whole images (20,30)")
    parser.add_argument("--variants", type=_names, help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--no-variants", dest="variants", action="store_const", const=(), help="only as served")
    parser.add_argument("--variant-rows", type=_numbers, help="images that share a step of a variant (1,4)")
    parser.add_argument("--dtype", choices=DTYPES, help=f"{DTYPES[0]}, unless tiny")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: does it run at all?")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    tiny = options.tiny
    architectures = TINY if tiny else FULL
    names = architectures if options.model == "both" else [options.model]
    variants = [name for name, variant in VARIANTS.items() if not tiny or variant.mode == "default"]
    return Plan(
        architectures={name: architectures[name] for name in names},
        sizes_px=options.sizes,
        rows=options.rows or ((1, 2) if tiny else (1, 2, 4, 5, 8)),
        steps=options.steps or ((2, 3) if tiny else (20, 30)),
        variants=variants if options.variants is None else options.variants,
        variant_rows=options.variant_rows or ((1,) if tiny else (1, 4)),
        device=torch.device("cpu" if tiny else "cuda"),
        dtype=getattr(torch, options.dtype or ("float32" if tiny else DTYPES[0])),
        matrix_side=512 if tiny else 8192,
        repeats=2 if tiny else 10,
        compile_backend="eager" if tiny else "inductor",
        profiled_images=20 if tiny else 60,
    )


def _setting(plan: Plan) -> dict[str, Any]:
    cuda = plan.device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "device": torch.cuda.get_device_name(plan.device) if cuda else "CPU",
        "memory_gib": round(torch.cuda.get_device_properties(plan.device).total_memory / 2**30) if cuda else None,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
    }


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
