"""The UNet for batches whose rows each have their own time step, prompt, face and face weight."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import Tensor

from deployments.config import CompileScope
from deployments.diffusion.model.batch_sharding import BatchSharding, SingleRows, Tensors
from deployments.diffusion.model.compiled_network import CompiledNetwork
from deployments.diffusion.model.row_lora import LoraSlots
from deployments.diffusion.model.transfer import to_device


class RowAttention(torch.nn.Module):
    """Attention to the prompt and, with a scale per row, to the face: Ye et al. 2023, IP-Adapter.

    Equivalent to diffusers' processor of the same weights, which has one scale for all rows.
    """

    def __init__(self, processor: IPAdapterAttnProcessor2_0) -> None:
        super().__init__()
        (self.to_k_ip,), (self.to_v_ip,) = processor.to_k_ip, processor.to_v_ip

    def forward(
        self,
        attention: Any,
        hidden_states: Tensor,  # (rows, pixels, channels)
        encoder_hidden_states: tuple[Tensor, Tensor, Tensor],
        attention_mask: None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(rows, pixels, channels), called by diffusers' `Attention`; mask and `temb` are not used.

        `encoder_hidden_states`: prompt and face tokens, (rows, tokens, channels), and the face's scale (rows, 1, 1).
        """
        prompt, face, scale = encoder_hidden_states
        query = attention.to_q(hidden_states)
        of_prompt = _attend(query, attention.to_k(prompt), attention.to_v(prompt), attention.heads)
        of_face = _attend(query, self.to_k_ip(face), self.to_v_ip(face), attention.heads)
        projection, dropout = attention.to_out
        mixed: Tensor = dropout(projection(of_prompt + (scale * of_face).to(of_prompt.dtype)))
        return mixed


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All (rows, tokens, channels)."""
    query, key, value = (states.view(*states.shape[:2], heads, -1).transpose(1, 2) for states in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)


class LatentSize(NamedTuple):
    """Height and width of latents."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"latents of {self.height} x {self.width}"


class RowUNet:
    """A diffusers UNet with an IP-Adapter; takes ownership of it.

    Some shapes can be compiled; others run uncompiled, since compiling takes a minute, in which every request would
    wait.
    """

    def __init__(
        self,
        unet: Any,
        threads: int = 1,
        batch_invariant: bool = False,
        on_compile_failure: Callable[[], None] = lambda: None,
        compile_scope: CompileScope = "unet",
        loras: LoraSlots | None = None,
    ) -> None:
        """On a CPU large batches are sharded over `threads`. With `batch_invariant` each row is a batch of its own."""
        self._unet = unet
        self._predict = partial(_predict, loras)
        self._graphs = CompiledNetwork(unet, partial(_predict_compiled, loras), on_compile_failure, compile_scope)
        # diffusers searches all modules for each of these two, which takes 2 ms.
        self._device, self.dtype = unet.device, unet.dtype
        on_cpu = self._device.type == "cpu"
        self._sharding = BatchSharding(threads if on_cpu else 1)
        self._single_rows = SingleRows(threads if on_cpu else 0) if batch_invariant else None
        # Each face is projected once, not in every step: without a projection the UNet takes our tokens.
        self._project_faces, unet.encoder_hid_proj = unet.encoder_hid_proj, None
        self.adapter_scale = _attend_by_row(unet)

    @torch.inference_mode()
    def face_tokens(self, photos: Tensor) -> Tensor:
        """(1, tokens, channels) of the photos of one face, (photos, ...): their tokens follow each other."""
        tokens: Tensor = self._project_faces([to_device(photos[:, None].to(self.dtype), self._device)])[0]
        return tokens.flatten(0, 2)[None]

    def __call__(self, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        """The prediction, (rows, c, h, w) in the UNet's dtype.

        Of the conditions, `adapter_scale` is (rows, 1, 1), `face_tokens` as above, `lora_slots` (rows, 2), on the CPU,
        where rows wear LoRAs, the others as diffusers names them.
        """
        latents = latents.to(self.dtype)
        if self._single_rows is not None:
            return self._single_rows(self._batch, latents, timesteps, conditions)
        return self._batch(latents, timesteps, conditions)

    def _batch(self, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
        inputs = {"latents": latents, "timesteps": timesteps, **conditions}
        predicted = self._graphs(LatentSize(*latents.shape[2:]), inputs)
        if predicted is None:
            with self._graphs.uncompiled():
                predicted = self._sharding(partial(self._predict, self._unet), latents, timesteps, conditions)
        return predicted

    def compiling(self, size: LatentSize, batch_size: int, backend: str) -> AbstractContextManager[None]:
        """A batch of this shape inside the block compiles its graph."""
        return self._graphs.compiling(size, batch_size, backend)


def _attend_by_row(unet: Any) -> float:
    """Install attention with a scale per row; returns the scale that was set for all rows."""
    processors = dict(unet.attn_processors)
    of_faces = {name: each for name, each in processors.items() if isinstance(each, IPAdapterAttnProcessor2_0)}
    unet.set_attn_processor(processors | {name: RowAttention(each) for name, each in of_faces.items()})
    (scale,) = {each.scale[0] for each in of_faces.values()}
    return float(scale)


def _predict_compiled(loras: LoraSlots | None, graph: Any, _size: LatentSize, inputs: Tensors) -> Tensor:
    # One graph for prompts of any number of windows.
    torch._dynamo.mark_dynamic(inputs["prompt_embeds"], 1)
    return _predict(loras, graph, inputs["latents"], inputs["timesteps"], inputs)


def _predict(loras: LoraSlots | None, unet: Any, latents: Tensor, timesteps: Tensor, conditions: Tensors) -> Tensor:
    wearing = nullcontext() if loras is None or "lora_slots" not in conditions else loras.worn(conditions["lora_slots"])
    added = (
        {"text_embeds": conditions["pooled_prompt_embeds"], "time_ids": conditions["time_ids"]}
        if "time_ids" in conditions
        else {}
    )
    with wearing:
        predicted: Tensor = unet(
            latents,
            timesteps,
            # Passed through unchanged to the attention layers.
            encoder_hidden_states=tuple(conditions[name] for name in ("prompt_embeds", "face_tokens", "adapter_scale")),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
    return predicted
