"""A sampler for each row: the model's own, or one of those for models that were distilled to few steps."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from deployments.diffusion.model.lcm_sampler import LCM
from deployments.diffusion.model.noise_schedule import NoiseSchedule, Plan
from deployments.diffusion.model.sampler import Euler, Positions, Sampler, sampler_of
from deployments.types import SamplerName

CACHED_PLANS = 64


class Sampled(Protocol):
    """A row: where it is, and how it goes on. Tensors are (1, c, h, w)."""

    @property
    def sampler(self) -> SamplerName | None:
        """The name of its sampler; None: the model's own."""

    @property
    def latents(self) -> Tensor:
        """In float32."""
        ...

    @property
    def previous(self) -> Tensor:
        """The denoised estimate of its last step."""
        ...

    @property
    def next_noise(self) -> Tensor:
        """What its next step adds, where its sampler does."""
        ...


class RowSamplers:
    """The samplers of a model, all on its own noise levels. Neighbours with the same one are computed together."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is a diffusers `scheduler_config.json`. Raises: as `sampler_of`."""
        self._of: dict[SamplerName | None, Sampler] = {None: sampler_of(config)}
        for name in get_args(SamplerName):
            self._of[name] = distilled_sampler(name, config)
        self.plan = lru_cache(CACHED_PLANS)(self._plan)

    def __getitem__(self, name: SamplerName | None) -> Sampler:
        """Raises: ValueError for a name that there is not."""
        if name not in self._of:
            raise ValueError(f"there is no sampler {name!r}")
        return self._of[name]

    def _plan(self, name: SamplerName | None, steps: int) -> Plan:
        """As `Sampler.plan`; of those asked for lately it keeps the plans. Raises: ValueError for an unknown name."""
        return self[name].plan(steps)

    def model_input(self, rows: Sequence[Sampled], at: Positions) -> Tensor:
        """(rows, c, h, w): their latents, scaled to the model's input."""
        return torch.cat(
            [
                sampler.scale_model_input(torch.cat([row.latents for row in rows[part]]), at[part])
                for sampler, part in self._parts(rows)
            ]
        )

    def step(self, rows: Sequence[Sampled], prediction: Tensor, at: Positions) -> tuple[Tensor, Tensor]:
        """The latents after the step, and the denoised estimates, both (rows, c, h, w)."""
        stepped = [_step(sampler, rows[part], prediction[part], at[part]) for sampler, part in self._parts(rows)]
        latents, denoised = zip(*stepped, strict=True)
        return torch.cat(latents), torch.cat(denoised)

    def _parts(self, rows: Sequence[Sampled]) -> Iterator[tuple[Sampler, slice]]:
        begin = 0
        for name, neighbours in groupby(row.sampler for row in rows):
            end = begin + len(list(neighbours))
            yield self._of[name], slice(begin, end)
            begin = end


def distilled_sampler(name: SamplerName, config: Mapping[str, Any]) -> Sampler:
    """One for few steps, as diffusers makes it from the `scheduler_config.json` of the model that was distilled.

    euler-trailing: EulerDiscreteScheduler with `timestep_spacing="trailing"`; lcm: LCMScheduler.
    """
    levels = sampler_of(config).schedule.model_dump(include={*NoiseSchedule.model_fields})
    spacing = {"timestep_spacing": "trailing", "use_karras_sigmas": False, "final_sigmas_type": "zero"}
    schedule = NoiseSchedule.of(levels | spacing)
    return LCM(schedule) if name == "lcm" else Euler(schedule)


def _step(sampler: Sampler, rows: Sequence[Sampled], prediction: Tensor, at: Positions) -> tuple[Tensor, Tensor]:
    latents, previous = (torch.cat([getattr(row, name) for row in rows]) for name in ("latents", "previous"))
    noise = torch.cat([row.next_noise for row in rows]) if sampler.adds_noise else None
    return sampler.step(latents, prediction, previous, at, noise)
