"""The noise levels of a flow-matching model and the plan of a request's steps, as diffusers computes them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

CACHED_PLANS = 64


class FlowStep(NamedTuple):
    """One Euler step of one row, from noise level `sigma` to `sigma_next`: 1 is noise, 0 the picture."""

    timestep: float  # what the model is told: 1000 times sigma
    sigma: float
    sigma_next: float


class FlowSchedule:
    """Plans by the number of steps and of tokens: larger pictures spend more of their steps on noise."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """`config` is that of diffusers' FlowMatchEulerDiscreteScheduler. Raises: ValueError for a random sampler."""
        if config.get("stochastic_sampling"):
            raise ValueError("stochastic_sampling is not supported: a seed would not give the same picture")
        self._config = config
        self.plan = lru_cache(CACHED_PLANS)(self._plan)

    def _plan(self, steps: int, tokens: int) -> tuple[FlowStep, ...]:
        """The steps of a picture of this many tokens."""
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._config)
        sigmas = None if self._config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        scheduler.set_timesteps(steps if sigmas is None else None, sigmas=sigmas, mu=mu)
        levels, times = scheduler.sigmas.tolist(), scheduler.timesteps.tolist()
        return tuple(FlowStep(*each) for each in zip(times, levels, levels[1:], strict=False))
