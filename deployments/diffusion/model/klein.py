"""FLUX.2 klein: a flow-matching transformer that sees pictures of a person as tokens beside those of the image.

The same image as diffusers' `Flux2KleinPipeline` draws from a row's own pictures, size, steps and prompt; but the rows
of a step each have their own (Black Forest Labs, 2026).
"""

import io
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from torch import Tensor

from deployments.config import CompileScope, DiffusionModelConfig
from deployments.diffusion.model.batch_sharding import use_threads
from deployments.diffusion.model.blank_samples import blank_samples
from deployments.diffusion.model.compiled_network import left_out_without_memory
from deployments.diffusion.model.device_errors import on_device
from deployments.diffusion.model.face_encoder import heads_of
from deployments.diffusion.model.flow_schedule import FlowSchedule, FlowStep
from deployments.diffusion.model.flow_transformer import FlowTransformer, Grid, Grids
from deployments.diffusion.model.guidance import guided
from deployments.diffusion.model.latent_colours import colours_of
from deployments.diffusion.model.loader import read_pipeline
from deployments.diffusion.model.lora_file import TRANSFORMER, read_loras, styles_of
from deployments.diffusion.model.pictures import decoded
from deployments.diffusion.model.precision import dtype_of
from deployments.diffusion.model.qwen_prompts import QwenPrompts
from deployments.diffusion.model.row_lora import NOTHING, LoraSlots, Worn
from deployments.diffusion.model.timeline import Mark, TimedStep, timeline_of
from deployments.diffusion.model.transfer import to_device
from deployments.types import AvatarSpec, FaceEmbedding, Pixels

OWN_SIZE = (1024, 1024)


@dataclass(slots=True, eq=False)
class KleinSample:
    """One half-done image. `prompt` and, with guidance, `against` are embeddings, (1, tokens, width)."""

    steps: tuple[FlowStep, ...]
    grids: Grids
    latents: Tensor  # (1, tokens, channels) float32
    estimate: Tensor  # the same of the image without noise, by the last step
    references: Tensor  # (1, tokens, channels), of all pictures of the person
    prompt: Tensor
    against: Tensor | None
    guidance_scale: float
    ready: Mark  # when the latents are computed
    worn: Worn = NOTHING
    steps_done: int = 0

    @property
    def next_step(self) -> FlowStep:
        """The step to make next. Raises: IndexError after the last one."""
        return self.steps[self.steps_done]


class KleinModel:
    """Advances samples by a step, each from its own position. Not thread-safe, except for overlapped decoding.

    Latents are float32 between steps, whatever the dtype of the transformer. The distilled model ignores guidance and
    negative prompt, as it was trained to.
    """

    def __init__(
        self,
        pipeline: Flux2KleinPipeline,
        threads: int = 1,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
        compile_scope: CompileScope = "unet",
        loras: LoraSlots | None = None,
    ) -> None:
        """Takes ownership of the pipeline; `on_compile_failure` is called for each shape whose graph failed."""
        self._pipeline = pipeline
        self.device: torch.device = pipeline.device
        self._loras = loras or LoraSlots(pipeline.transformer, {})
        self._transformer = FlowTransformer(
            pipeline.transformer, batch_invariant, on_compile_failure, compile_scope, self._loras
        )
        self._vae = pipeline.vae
        self._prompts = QwenPrompts(pipeline.tokenizer, pipeline.text_encoder)
        self._schedule = FlowSchedule(pipeline.scheduler.config)
        self._timeline = timeline_of(self.device)
        self._colours = colours_of(type(pipeline).__name__, self._vae.config.latent_channels)
        self._threads = threads
        self._batch_invariant = batch_invariant
        self._pixels_per_token = 2 * pipeline.vae_scale_factor
        # The statistics by which the latents that the transformer knows are normalised, (1, channels, 1, 1).
        self._mean = self._vae.bn.running_mean.view(1, -1, 1, 1).float()
        self._std = (self._vae.bn.running_var.view(1, -1, 1, 1).float() + self._vae.config.batch_norm_eps).sqrt()

    @classmethod
    def load(
        cls,
        config: DiffusionModelConfig,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
    ) -> "KleinModel":
        """Reads a diffusers folder, safetensors only; nothing is downloaded.

        Raises: what `read_loras` raises; OSError where a file is missing or invalid; ValueError for settings that this
            model has not; RuntimeError where the device is not available.
        """
        for name, value in (("ip_adapter", config.ip_adapter), ("lora", config.lora)):
            if value is not None:
                raise ValueError(f"FLUX.2 klein takes no `{name}`")
        for name in ("guidance_interval", "decoders"):
            if getattr(config, name):
                raise ValueError(f"FLUX.2 klein takes no `{name}`")
        if config.fp8_weights and config.compile:
            raise ValueError("a model with `fp8_weights` cannot be compiled: torch has no graph of their conversion")
        pipeline = read_pipeline(Flux2KleinPipeline, config)
        if config.fp8_weights:
            pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype_of(config))
        read = read_loras(config.loras, {TRANSFORMER: pipeline.transformer})[TRANSFORMER]
        loras = LoraSlots(pipeline.transformer, read, styles_of(config.loras), dtype_of(config))
        return cls(pipeline, config.threads, batch_invariant, on_compile_failure, config.compile_scope, loras)

    @property
    def is_asynchronous(self) -> bool:
        """On a GPU."""
        return self._timeline.is_asynchronous

    @property
    def own_size(self) -> tuple[int, int]:
        """Width and height in pixels that the model was trained for."""
        side = min(OWN_SIZE[0], self._vae.config.sample_size)
        return side, side

    def bucket(self, spec: AvatarSpec, face: FaceEmbedding) -> Hashable:
        """The size, and how many pictures of the person there are: positions are the same for all rows of a step."""
        return spec.width, spec.height, len(face.heads)

    def batch_sizes(self, spec: AvatarSpec) -> Sequence[int]:
        """1 of the distilled model, which needs no guidance; of the other one 2 with guidance."""
        return [2 if self._is_guided(spec) else 1] * spec.num_inference_steps

    def _is_guided(self, spec: AvatarSpec) -> bool:
        return spec.guidance_scale > 1 and not self._pipeline.config.is_distilled

    @on_device
    def prepare(self, specs: Sequence[AvatarSpec]) -> None:
        """The text encoder costs about as much as all steps of an image: new prompts share a forward pass.

        Raises: OutOfMemoryError.
        """
        use_threads(self._threads)
        wanted = list(dict.fromkeys(map(self._texts, specs)))
        together = len(wanted) > 1 and not self._batch_invariant
        self._prompts.encode_ahead([prompt for texts in wanted for prompt in texts], together=together)

    def _texts(self, spec: AvatarSpec) -> tuple[str, ...]:
        return (spec.prompt, spec.negative_prompt) if self._is_guided(spec) else (spec.prompt,)

    @on_device
    @torch.inference_mode()
    def start(self, spec: AvatarSpec, face: FaceEmbedding) -> KleinSample:
        """A sample before its first step.

        Raises: OutOfMemoryError; PromptTooLongError; ValueError without pictures, for a sampler by name, or where the
            model lacks the LoRA.
        """
        if spec.sampler is not None:
            raise ValueError(f"FLUX.2 klein has a sampler of its own, not {spec.sampler}")
        heads = heads_of(face)
        use_threads(self._threads)
        image = Grid(spec.height // self._pixels_per_token, spec.width // self._pixels_per_token)
        prompt = self._prompts.encode(spec.prompt)
        against = self._prompts.encode(spec.negative_prompt) if self._is_guided(spec) else None
        pictures = [self._reference(head) for head in heads]
        grids = Grids(image, tuple(Grid(*picture.shape[2:]) for picture in pictures))
        noise = self._noise(spec.seed, image)
        return KleinSample(
            steps=self._schedule.plan(spec.num_inference_steps, image.tokens),
            grids=grids,
            latents=noise,
            estimate=noise,
            references=torch.cat([_packed(picture) for picture in pictures], dim=1),
            prompt=prompt,
            against=against,
            guidance_scale=spec.guidance_scale,
            ready=self._timeline.mark(),
            worn=self._loras.worn_by(spec.lora, spec.speed_lora),
        )

    @on_device
    @torch.inference_mode()
    def step(self, samples: Sequence[KleinSample]) -> TimedStep:
        """One step for each sample. Raises: OutOfMemoryError; after any error all are unchanged."""
        use_threads(self._threads)
        begin = self._timeline.mark()
        ordered = sorted(samples, key=lambda sample: (sample.against is None, sample.worn))
        latents = torch.cat([sample.latents for sample in ordered])
        levels = [(sample.next_step.sigma, sample.next_step.sigma_next) for sample in ordered]
        lengths = torch.tensor([(sigma_next - sigma, -sigma) for sigma, sigma_next in levels])
        ahead, to_the_end = to_device(lengths, self.device)[:, :, None, None].unbind(1)
        flow = self._predict(ordered, latents)
        moved, estimates = latents + ahead * flow, latents + to_the_end * flow
        end = self._timeline.mark()
        for index, sample in enumerate(ordered):
            sample.ready = end  # first: `preview` reads an estimate, then this, while another thread is here
            sample.latents, sample.estimate = moved[index : index + 1], estimates[index : index + 1]
            sample.steps_done += 1
        return TimedStep(self._timeline, begin, end)

    @on_device
    @torch.inference_mode()
    def decode(self, sample: KleinSample, overlapped: bool = False) -> Pixels:
        """The image (h, w, 3) of a sample after its last step; `overlapped` with a step it uses one core.

        If memory is short it is decoded in tiles with blended seams. Raises: OutOfMemoryError.
        """
        use_threads(1 if overlapped or self._batch_invariant else self._threads)
        with self._timeline.decoding(sample.ready):
            latents = _unpacked(sample.latents, sample.grids.image) * self._std + self._mean
            unpacked = self._pipeline._unpatchify_latents(latents).to(self._vae.dtype)
            return decoded(self._vae, unpacked)

    @on_device
    @torch.inference_mode()
    def preview(self, sample: KleinSample) -> Pixels | None:
        """As `Previewing.preview`: of the last step's estimate of the image without noise."""
        if self._colours is None:
            return None
        use_threads(1)
        estimate = sample.estimate  # every step has new ones
        self._timeline.wait(sample.ready)
        with self._timeline.decoding(sample.ready):
            return self._colours.picture(self._pipeline._unpatchify_latents(_unpacked(estimate, sample.grids.image)))

    def compile(self, size: tuple[int, int], batch_size: int, backend: str = "inductor") -> None:
        """Compile the transformer for a batch size at an image size (width, height) and one photo, in up to a minute.

        As `FaceDiffusionModel.compile`; images of several photos are drawn uncompiled.
        """
        with left_out_without_memory(size, batch_size):
            samples = blank_samples(self.start, size, batch_size)
            with self._transformer.compiling(samples[0].grids, batch_size, backend):
                self.step(samples)

    def profile(self, batch_sizes: Sequence[int]) -> dict[int, float]:
        """Seconds of a step by batch size, at the model's own image size."""
        self.step(blank_samples(self.start, self.own_size, 1)).wait_s()  # warm-up: the first step is slower
        return {size: self.step(blank_samples(self.start, self.own_size, size)).wait_s() for size in batch_sizes}

    def _predict(self, samples: Sequence[KleinSample], latents: Tensor) -> Tensor:
        """The flow, (rows, tokens, channels) float32. Rows with guidance come first, and are predicted twice."""
        led = [sample for sample in samples if sample.against is not None]
        rows = [*led, *samples]
        against = [sample.against for sample in samples if sample.against is not None]
        seen = torch.cat([latents[: len(led)], latents])
        references = torch.cat([sample.references for sample in rows])
        worn = torch.tensor([sample.worn for sample in rows])
        times = to_device(torch.tensor([sample.next_step.timestep for sample in rows]), self.device)
        flow = self._transformer(
            samples[0].grids,
            torch.cat([seen.to(self._transformer.dtype), references], dim=1),
            times.to(self._transformer.dtype) / 1000,
            torch.cat([*against, *(sample.prompt for sample in samples)]),
            worn if worn.any() else None,
        )
        return guided(flow[:, : latents.shape[1]].float(), [sample.guidance_scale for sample in led])

    def _reference(self, head: bytes) -> Tensor:
        """A picture of the person as the transformer's latents, (1, channels, h, w)."""
        picture = Image.open(io.BytesIO(head)).convert("RGB")
        side = max(1, min(picture.size) // self._pixels_per_token) * self._pixels_per_token
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        levels = torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)[None] / 255
        pixels = to_device((2 * levels - 1).to(self._vae.dtype), self.device)
        latents = self._pipeline._patchify_latents(self._vae.encode(pixels).latent_dist.mode())
        normalised: Tensor = (latents.float() - self._mean) / self._std
        return normalised.to(self._transformer.dtype)

    def _noise(self, seed: int, grid: Grid) -> Tensor:
        """(1, tokens, channels), independent of the device and of the batch; drawn as diffusers does, then packed."""
        shape = (1, self._transformer.channels, *grid)
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(shape, generator=generator, dtype=self._transformer.dtype)
        return to_device(_packed(noise).float(), self.device)


def _unpacked(tokens: Tensor, grid: Grid) -> Tensor:
    """(1, h * w, channels) to (1, channels, h, w)."""
    return tokens.transpose(1, 2).reshape(1, tokens.shape[-1], *grid)


def _packed(latents: Tensor) -> Tensor:
    """(rows, channels, h, w) to (rows, h * w, channels)."""
    return latents.flatten(2).transpose(1, 2)
