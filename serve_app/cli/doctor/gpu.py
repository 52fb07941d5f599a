"""Checks of the GPU: its driver, the libraries' versions of CUDA, and whether the stages fit its memory together."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ray.serve.schema import ServeDeploySchema

from deployments.common.gpu_share import CONTEXT_GB, arenas_gb
from deployments.config import AvatarGeneratorConfig, CascadeFaceModelConfig, FaceModelConfig
from deployments.model_memory import together_gb
from serve_app.cli.doctor.files import loaded_faces, loaded_generator
from serve_app.cli.doctor.finding import Finding, fail, ok, warn
from serve_app.settings import Settings

PROBE_TIMEOUT_S = 120  # importing torch from a cold disk
ASK_TIMEOUT_S = 20
CUDA_PROVIDER = "CUDAExecutionProvider"

# In its own process: a broken driver may crash it. The driver's version is 1000 * major + 10 * minor.
CUDA_PROBE = """
import ctypes, json, onnxruntime, torch
number = ctypes.c_int(0)
try:
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
except OSError:
    pass
print(json.dumps({
    "driver": f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None,
    "torch": torch.version.cuda,
    "torch_works": torch.cuda.is_available(),
    "onnxruntime": getattr(onnxruntime, "cuda_version", None) or None,
    "onnxruntime_works": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
}))
"""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as its driver names it."""

    name: str
    memory_gb: float
    driver: str


@dataclass(frozen=True, slots=True)
class CudaVersions:
    """The version of CUDA, such as `13.0`, that the driver knows and each library was built for; None: none."""

    driver: str | None
    torch: str | None
    torch_works: bool
    onnxruntime: str | None
    onnxruntime_works: bool


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What a replica of a deployment asks of a GPU: the share that it reserves, and the memory that it may take.

    `memory_gb` is None where nothing bounds it.
    """

    deployment: str
    share: float
    memory_gb: float | None


def wants_gpu(schema: ServeDeploySchema, settings: Settings) -> bool:
    """Whether a deployment reserves a GPU, or a model of the generator is on a CUDA device."""
    devices = (model.device for model in loaded_generator(settings).models.values())
    return any(_shares(schema).values()) or any(device.startswith("cuda") for device in devices)


def has_driver() -> bool:
    """Whether this machine has the driver of a GPU, which may hang."""
    return shutil.which("nvidia-smi") is not None


def gpus() -> list[Gpu]:
    """The GPUs that the driver knows; none without a driver. Raises: subprocess.TimeoutExpired where it hangs."""
    if not has_driver():
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total,driver_version,name", "--format=csv,noheader,nounits"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False)
    return [_gpu(line) for line in result.stdout.splitlines()] if result.returncode == 0 else []


def _gpu(line: str) -> Gpu:
    memory_mib, driver, name = (part.strip() for part in line.split(",", 2))
    return Gpu(name, float(memory_mib) * 2**20 / 1e9, driver)


def check_gpu(schema: ServeDeploySchema, settings: Settings) -> list[Finding]:
    """Whether the libraries can use the GPU, and the stages fit it; a machine without one is only warned."""
    if not wants_gpu(schema, settings):
        return [ok("GPU", "the configuration asks for none")]
    try:
        return [*judge_models(settings), *_tried_gpu(gpu_needs(schema, settings))]
    except subprocess.TimeoutExpired as error:
        reason = f"`{error.cmd[0]}` does not answer within {error.timeout:g} s: the driver hangs"
        return [fail("GPU", reason, "Look for Xid errors in the kernel's log, and restart the machine.")]


def _tried_gpu(needs: Sequence[GpuNeed]) -> list[Finding]:
    """Raises: subprocess.TimeoutExpired where the driver or the libraries hang."""
    if not (found := gpus()):
        reason = "the configuration asks for one, and this machine has none that its driver knows"
        return [warn("GPU", reason, "Right for a node that runs no GPU stage. Run this on a GPU node, too.")]
    probe = [sys.executable, "-c", CUDA_PROBE]
    result = subprocess.run(probe, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return [fail("GPU", f"torch cannot be tried: {last}", "Reinstall the package in an environment of its own.")]
    return [*judge_cuda(found, CudaVersions(**json.loads(result.stdout))), *judge_memory(found, needs)]


def judge_cuda(found: Sequence[Gpu], versions: CudaVersions) -> list[Finding]:
    """A failure for each library that cannot use the GPU, and why; otherwise the GPUs."""
    findings = list(_cuda_mismatches(versions))
    if not findings and not versions.torch_works:
        findings.append(fail("GPU", "torch cannot use it", "Look at `nvidia-smi` and the kernel's log for its errors."))
    if not versions.onnxruntime_works:
        remedy = "pip install 'face-avatar[gpu]' in place of onnxruntime"
        findings.append(fail("GPU", f"onnxruntime has no {CUDA_PROVIDER}", remedy))
    names = "; ".join(f"{gpu.name}, {gpu.memory_gb:.1f} GB, driver {gpu.driver}" for gpu in found)
    return findings or [ok("GPU", f"{names}, CUDA {versions.torch}")]


def _cuda_mismatches(versions: CudaVersions) -> Iterator[Finding]:
    """Libraries find each other's CUDA only of one major version; a driver knows its own and older ones."""
    if versions.torch is None:
        yield fail(
            "CUDA", "this torch is built without CUDA", "Install torch's CUDA build: serve_app/config/install.sh."
        )
        return
    if versions.driver is None:
        yield fail("CUDA", "the driver's libcuda.so.1 is not there", "In a container: the NVIDIA Container Toolkit.")
    elif _major(versions.driver) < _major(versions.torch):
        reason = f"the driver knows CUDA {versions.driver}, and torch is built for {versions.torch}"
        yield fail("CUDA", reason, f"A driver that knows CUDA {_major(versions.torch)}, or torch for an older one.")
    if versions.onnxruntime is not None and _major(versions.onnxruntime) != _major(versions.torch):
        reason = f"onnxruntime is built for CUDA {versions.onnxruntime}, torch for {versions.torch}"
        yield fail("CUDA", reason, "Install both for one major version: the lock of the package has such ones.")


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def judge_memory(found: Sequence[Gpu], needs: Sequence[GpuNeed]) -> list[Finding]:
    """Whether each stage keeps within its share of the smallest GPU, so that whatever Ray puts on it fits together."""
    total_gb = min(gpu.memory_gb for gpu in found)
    findings = [finding for need in needs if (finding := _excess(need, total_gb)) is not None]
    if findings or not needs:
        return findings
    held = ", ".join(f"{need.deployment} {need.memory_gb:.1f} of {_share_gb(need, total_gb):.1f}" for need in needs)
    return [ok("GPU memory", f"GB of a replica: {held}")]


def _excess(need: GpuNeed, total_gb: float) -> Finding | None:
    share_gb = _share_gb(need, total_gb)
    reserves = f"reserves {need.share:g} of {total_gb:.1f} GB, {share_gb:.1f} GB"
    if not need.share:
        reason = f"{need.deployment} uses CUDA and reserves no share of a GPU (num_gpus)"
        return fail("GPU memory", reason, "Set num_gpus: else Ray counts neither its memory nor the node it needs.")
    if need.memory_gb is None:
        remedy = "gpu_memory_mb of each face model and generator.memory_gb bound it; background removal has no bound."
        return warn("GPU memory", f"{need.deployment} {reserves}, and may take all of the GPU", remedy)
    if need.memory_gb > share_gb:
        remedy = "Raise its num_gpus, or lower memory_gb (generator) or gpu_memory_mb (face)."
        return fail("GPU memory", f"{need.deployment} {reserves}, and may take {need.memory_gb:.1f} GB", remedy)
    return None


def _share_gb(need: GpuNeed, total_gb: float) -> float:
    return min(need.share, 1.0) * total_gb


def judge_models(settings: Settings) -> list[Finding]:
    """A failure for each model that the generator's memory is too small for: a replica does not start then."""
    generator = _generator(settings)
    return [
        fail(
            "GPU memory",
            f"model {name} takes {model.memory().total_gb:.1f} GB with its LoRAs, more than generator.memory_gb,"
            f" {generator.memory_gb:g}",
            "Raise generator.memory_gb, or take LoRAs out of the apps.",
        )
        for name, model in generator.models.items()
        if generator.memory_gb is not None and model.memory().total_gb > generator.memory_gb
    ]


def _generator(settings: Settings) -> AvatarGeneratorConfig:
    """With the paths of its files on this machine, whose sizes are counted."""
    return loaded_generator(settings).located(settings.models_dir.expanduser())


def gpu_needs(schema: ServeDeploySchema, settings: Settings) -> list[GpuNeed]:
    """What a replica of each stage that computes on a GPU asks of it."""
    shares, needs = _shares(schema), []
    on_cuda = [model for model in loaded_faces(settings).loaded() if CUDA_PROVIDER in model.providers]
    if on_cuda:
        needs.append(GpuNeed("FaceEmbedder", shares.get("FaceEmbedder", 0), _embedder_gb(on_cuda)))
    generator = _generator(settings)
    on_gpu = [model for model in generator.models.values() if model.device.startswith("cuda")]
    if on_gpu:
        models_gb = generator.memory_gb or together_gb(model.memory() for model in on_gpu)
        memory_gb = models_gb + CONTEXT_GB if models_gb else None
        needs.append(GpuNeed("AvatarGenerator", shares.get("AvatarGenerator", 0), memory_gb))
    if CUDA_PROVIDER in settings.background.model.providers:
        needs.append(GpuNeed("BackgroundRemover", shares.get("BackgroundRemover", 0), None))
    return needs


def _embedder_gb(models: Sequence[FaceModelConfig]) -> float | None:
    """What these face models take of a GPU in one process; None where nothing bounds one of them."""
    arenas = 0.0
    for model in models:
        if isinstance(model, CascadeFaceModelConfig) or model.gpu_memory_mb is None:
            return None
        arenas += arenas_gb(model.sessions, model.gpu_memory_mb)
    return CONTEXT_GB + arenas


def _shares(schema: ServeDeploySchema) -> dict[str, float]:
    """`num_gpus` of a replica, by deployment."""
    deployments = [deployment for application in schema.applications for deployment in application.deployments]
    options = {each.name: each.model_dump(exclude_unset=True).get("ray_actor_options") or {} for each in deployments}
    return {name: float(option.get("num_gpus") or 0) for name, option in options.items()}
