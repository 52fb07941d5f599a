"""The denoiser: Stable Diffusion 1.5 and SDXL with an IP-Adapter, built from diffusers' pipelines."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from deployments.config import CompileScope, DiffusionModelConfig, model_path
from deployments.diffusion.model.batch_sharding import use_threads
from deployments.diffusion.model.blank_samples import blank_samples
from deployments.diffusion.model.compiled_network import left_out_without_memory
from deployments.diffusion.model.device_errors import on_device
from deployments.diffusion.model.face_encoder import FaceEncoder
from deployments.diffusion.model.guidance import guided, guided_steps
from deployments.diffusion.model.latent_colours import colours_of
from deployments.diffusion.model.loader import (
    NO_LORAS,
    FacePipeline,
    Tensors,
    Timed,
    load_face_encoder,
    load_loras,
    load_pipeline,
    untimed,
)
from deployments.diffusion.model.lora_file import UNET
from deployments.diffusion.model.noise_schedule import Plan, Step
from deployments.diffusion.model.optimized_layers import replace_layers
from deployments.diffusion.model.pictures import decoded
from deployments.diffusion.model.precision import dtype_of
from deployments.diffusion.model.row_lora import NOTHING, LoraSlots, Worn
from deployments.diffusion.model.row_samplers import RowSamplers
from deployments.diffusion.model.sampler import Positions
from deployments.diffusion.model.timeline import Mark, TimedStep, timeline_of
from deployments.diffusion.model.tiny_decoder import read_tiny_decoder
from deployments.diffusion.model.transfer import to_device
from deployments.diffusion.model.unet import LatentSize, RowUNet
from deployments.types import AvatarSpec, FaceEmbedding, Pixels, SamplerName


@dataclass(slots=True, eq=False)
class Sample:
    """One half-done image. `conditions`: prompt and face; `against`: the negative prompt and no face, for guidance.

    `guided` says of each step whether guidance acts in it.
    """

    plan: Plan
    latents: Tensor  # (1, c, h, w) float32
    previous: Tensor  # the previous step's denoised estimate
    guidance_scale: float
    conditions: Tensors
    against: Tensors | None
    guided: Sequence[bool]
    ready: Mark  # when the latents are computed
    worn: Worn = NOTHING
    sampler: SamplerName | None = None
    decoder: str | None = None
    noise: Sequence[Tensor] = ()  # (1, c, h, w) each: what the steps but the last add, where the sampler does
    steps_done: int = 0

    @property
    def next_step(self) -> Step:
        """The step to make next. Raises: IndexError after the last one."""
        return self.plan.steps[self.steps_done]

    @property
    def next_against(self) -> Tensors | None:
        """What the next step is led away from; None where guidance does not act in it."""
        return self.against if self.guided[self.steps_done] else None

    @property
    def next_noise(self) -> Tensor:
        """(1, c, h, w); in the last step any finite numbers."""
        return self.noise[self.steps_done] if self.steps_done < len(self.noise) else self.latents


class FaceDiffusionModel:
    """Advances samples by a step, each from its own position. Beside a step others may be started and one be decoded.

    Latents are float32 between steps, whatever the dtype of the model: the first sigma of a model with zero terminal
    SNR is 4096.

    With `batch_invariant` an image is bit-identical whatever else is in its batches, unless it is decoded in tiles
    because memory is short.
    """

    def __init__(
        self,
        pipeline: FacePipeline,
        faces: FaceEncoder,
        threads: int = 1,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
        compile_scope: CompileScope = "unet",
        loras: Mapping[str, LoraSlots] = NO_LORAS,
        guidance_interval: tuple[float, float] | None = None,
        decoders: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`on_compile_failure` is called for each shape whose compiler or graph failed: it then runs uncompiled.

        `loras` are by the names of the pipeline's networks.
        """
        self._pipeline = pipeline
        self.device: torch.device = pipeline.device  # diffusers searches all modules for it
        self._prompts = pipeline.prompt_encoder(loras)
        self._samplers = RowSamplers(pipeline.scheduler.config)
        self._guidance_interval = guidance_interval
        self._decoders = decoders
        self._timeline = timeline_of(self.device)
        self._colours = colours_of(pipeline.family, pipeline.vae.config.latent_channels)
        self._threads = threads
        self._batch_invariant = batch_invariant
        self._loras = loras.get(UNET) or LoraSlots(pipeline.unet, {})
        for network in (pipeline.unet, pipeline.vae):
            replace_layers(network)
        self._unet = RowUNet(pipeline.unet, threads, batch_invariant, on_compile_failure, compile_scope, self._loras)
        self._faces = faces
        self._no_face = self._unet.face_tokens(faces.no_face())

    @classmethod
    def load(
        cls,
        config: DiffusionModelConfig,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
        timed: Timed = untimed,
    ) -> "FaceDiffusionModel":
        """Raises: what `load_pipeline` and `read_loras` raise; ValueError where the scheduler has no sampler here."""
        pipeline = load_pipeline(config, timed)
        faces = load_face_encoder(pipeline, config)
        with timed("lora"):
            loras = load_loras(pipeline, config)
        channels, dtype = pipeline.vae.config.latent_channels, dtype_of(config)
        decoders = {
            name: read_tiny_decoder(model_path(file), channels, dtype, pipeline.device)
            for name, file in config.decoders.items()
        }
        return cls(
            pipeline, faces, config.threads, batch_invariant, on_compile_failure, config.compile_scope, loras,
            config.guidance_interval, decoders,
        )  # fmt: skip

    @property
    def is_asynchronous(self) -> bool:
        """On a GPU."""
        return self._timeline.is_asynchronous

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """Size, windows of the longer prompt (padding a shorter one would change its meaning), photos of the face."""
        return spec.width, spec.height, self._chunks(spec), self._faces.photos(face)

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """2 in each step with guidance, for the positive and the negative prompt."""
        return [2 if guided else 1 for guided in self._guided_steps(spec)]

    def _guided_steps(self, spec: AvatarSpec) -> Sequence[bool]:
        steps = spec.num_inference_steps
        if spec.guidance_scale <= 1:
            return (False,) * steps
        is_standard = spec.sampler is None and spec.speed_lora is None
        if self._guidance_interval is None or not is_standard:
            return (True,) * steps
        return guided_steps(self._samplers.plan(None, steps), self._guidance_interval)

    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """Does nothing: CLIP's text encoders are small beside the steps."""

    @on_device
    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> Sample:
        """A sample before its first step.

        Raises: OutOfMemoryError; ValueError where `face` lacks what it needs, or the model the LoRA, the sampler or the
            decoder.
        """
        if spec.decoder is not None and spec.decoder not in self._decoders:
            raise ValueError(f"the model has no decoder {spec.decoder!r}")
        use_threads(self._threads)
        plan = self._samplers.plan(spec.sampler, spec.num_inference_steps)
        first, *noise = self._noise(spec, len(plan.steps) if self._samplers[spec.sampler].adds_noise else 1)
        latents = first * plan.init_noise_sigma
        chunks, sizes = self._chunks(spec), self._pipeline.size_condition(spec.width, spec.height)
        size = {name: to_device(values.to(self._unet.dtype), self.device) for name, values in sizes.items()}
        scale = self._unet.adapter_scale if spec.ip_adapter_scale is None else spec.ip_adapter_scale
        alike = {"adapter_scale": torch.full((1, 1, 1), scale, device=self.device), **size}
        face_tokens = self._unet.face_tokens(self._faces.encode(face))
        worn = self._loras.worn_by(spec.lora, spec.speed_lora)
        prompt = self._prompts.encode(spec.prompt, chunks, spec.lora, spec.speed_lora)
        conditions = {**prompt, "face_tokens": face_tokens, **alike}
        against, guided = None, self._guided_steps(spec)
        if any(guided):
            negative = self._prompts.encode_negative(spec.negative_prompt, chunks, spec.lora, spec.speed_lora)
            against = {**negative, "face_tokens": self._no_face.repeat(1, self._faces.photos(face), 1), **alike}
        previous, ready = torch.zeros_like(latents), self._timeline.mark()
        return Sample(
            plan, latents, previous, spec.guidance_scale, conditions, against, guided, ready, worn, spec.sampler,
            spec.decoder, noise,
        )  # fmt: skip

    @on_device
    @torch.inference_mode()
    def step(self, samples: Sequence[Sample]) -> TimedStep:
        """One step for each sample. Raises: OutOfMemoryError; after any error all are unchanged."""
        use_threads(self._threads)
        return self._step(sorted(samples, key=_order))

    def _step(self, samples: Sequence[Sample]) -> TimedStep:
        """In this order, see `_order`."""
        begin = self._timeline.mark()
        at = Positions.of([sample.next_step for sample in samples], self.device)
        prediction = self._predict(samples, self._samplers.model_input(samples, at), at.timestep)
        latents, denoised = self._samplers.step(samples, prediction, at)
        end = self._timeline.mark()
        for index, sample in enumerate(samples):
            sample.ready = end  # first: `preview` reads an estimate, then this, while another thread is here
            sample.latents, sample.previous = latents[index : index + 1], denoised[index : index + 1]
            sample.steps_done += 1
        return TimedStep(self._timeline, begin, end)

    def _predict(self, samples: Sequence[Sample], inputs: Tensor, timesteps: Tensor) -> Tensor:
        """(rows, c, h, w) float32. Rows with guidance are predicted twice, others once."""
        against = [led for sample in samples if (led := sample.next_against) is not None]
        count = len(against)
        conditions = _joined([*against, *(sample.conditions for sample in samples)])
        if any(sample.worn != NOTHING for sample in samples):
            slots = torch.tensor([sample.worn for sample in [*samples[:count], *samples]])
            conditions = {**conditions, "lora_slots": slots}
        predicted = self._unet(
            torch.cat([inputs[:count], inputs]), torch.cat([timesteps[:count], timesteps]), conditions
        ).float()
        return guided(predicted, [sample.guidance_scale for sample in samples[:count]])

    @on_device
    @torch.inference_mode()
    def decode(self, sample: Sample, overlapped: bool = False) -> Pixels:
        """The image (h, w, 3) of a sample after its last step; `overlapped` with a step it uses one core.

        If memory is short it is decoded in tiles with blended seams. Raises: OutOfMemoryError.
        """
        use_threads(1 if overlapped or self._batch_invariant else self._threads)
        with self._timeline.decoding(sample.ready):
            return self._decoded(sample)

    @on_device
    @torch.inference_mode()
    def preview(self, sample: Sample) -> Pixels | None:
        """As `Previewing.preview`: of the last step's denoised estimate."""
        if self._colours is None:
            return None
        use_threads(1)
        estimate = sample.previous  # every step has new ones
        self._timeline.wait(sample.ready)
        with self._timeline.decoding(sample.ready):
            return self._colours.picture(estimate)

    def _decoded(self, sample: Sample) -> Pixels:
        vae = self._pipeline.vae if sample.decoder is None else self._decoders[sample.decoder]
        return decoded(vae, _unscaled(sample.latents, vae.config).to(vae.dtype))

    def compile(self, size: tuple[int, int], batch_size: int, backend: str = "inductor") -> None:
        """Compile the UNet for a batch size at an image size (width, height), in up to a minute.

        A smaller batch is padded to the next of the compiled batch sizes; what is not compiled, or whose compiler
        fails, runs uncompiled.
        """
        (width, height), factor = size, self._pipeline.vae_scale_factor
        latents = LatentSize(height // factor, width // factor)
        with left_out_without_memory(size, batch_size), self._unet.compiling(latents, batch_size, backend):
            self.step(blank_samples(self.start, size, batch_size))

    def profile(self, batch_sizes: Sequence[int]) -> dict[int, float]:
        """Seconds of a step by batch size of the UNet, at the model's own image size."""
        self.step(blank_samples(self.start, self.own_size, 1)).wait_s()  # warm-up: the first step is slower
        return {size: self.step(blank_samples(self.start, self.own_size, size)).wait_s() for size in batch_sizes}

    @property
    def own_size(self) -> tuple[int, int]:
        """Width and height in pixels that the model was trained for."""
        side = self._pipeline.unet.config.sample_size * self._pipeline.vae_scale_factor
        return side, side

    def _noise(self, spec: AvatarSpec, count: int) -> list[Tensor]:
        """So many tensors (1, c, h, w), drawn one after the other: independent of the device and of the batch."""
        unet, factor = self._pipeline.unet, self._pipeline.vae_scale_factor
        shape = (1, unet.config.in_channels, spec.height // factor, spec.width // factor)
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        drawn = (torch.randn(shape, generator=generator, dtype=self._unet.dtype) for _ in range(count))
        return [to_device(noise.to(torch.float32), self.device) for noise in drawn]

    def _chunks(self, spec: AvatarSpec) -> int:
        return max(self._prompts.chunks(spec.prompt), self._prompts.chunks(spec.negative_prompt))


def _order(sample: Sample) -> tuple[bool, str, Worn]:
    """Samples with guidance come first. Neighbours have the same sampler, and of these the same LoRAs."""
    return sample.next_against is None, sample.sampler or "", sample.worn


def _joined(conditions: Sequence[Tensors]) -> Tensors:
    return {name: torch.cat([each[name] for each in conditions]) for name in conditions[0]}


def _unscaled(latents: Tensor, config: Any) -> Tensor:
    """The VAE's latents, from the UNet's latents of variance 1."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    scaled: Tensor = latents / config.scaling_factor
    if mean is None or std is None:
        return scaled
    shape = (1, -1, 1, 1)
    return scaled * latents.new_tensor(std).view(shape) + latents.new_tensor(mean).view(shape)
