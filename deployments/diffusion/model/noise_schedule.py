"""The noise levels of a model, and the plan of steps of a request.

Computed in numpy, with the float32 rounding of diffusers' schedulers: torch's square roots and `linspace` differ in the
last bit between processors. IEEE 754 fixes the operations in float32 used here; functions that it leaves open (`pow`,
`log`, `cos`) run in float64 and are rounded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Numbers = npt.NDArray[np.floating[Any]]
PredictionType = Literal["epsilon", "v_prediction", "sample"]

KARRAS_RHO = 7.0


class Step(NamedTuple):
    """One step of one row, from noise of standard deviation `sigma` to `sigma_next`, in units of the clean latents.

    `extrapolation` is how far the denoised estimate is extrapolated from that of the previous step: 0 is first order.
    `skip` is how much of the latents a consistency model keeps, beside sqrt(1 - skip) of the estimate.
    """

    timestep: float
    sigma: float
    sigma_next: float
    extrapolation: float = 0.0
    skip: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps of one request. The first latents are normal noise times `init_noise_sigma`."""

    steps: tuple[Step, ...]
    init_noise_sigma: float


class NoiseSchedule(BaseModel):
    """The noise levels of a model, in the keys and with the defaults of diffusers' EulerDiscreteScheduler."""

    model_config = ConfigDict(frozen=True)

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: int = 0
    use_karras_sigmas: bool = False
    sigma_min: float | None = None  # of the Karras spacing
    sigma_max: float | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    # Unsupported features: these fields reject every value except the one that means "not used".
    clip_sample: Literal[False] = False
    interpolation_type: Literal["linear"] = "linear"
    shift_terminal: None = None
    thresholding: Literal[False] = False
    timestep_type: Literal["discrete"] = "discrete"
    use_beta_sigmas: Literal[False] = False
    use_dynamic_shifting: Literal[False] = False
    use_exponential_sigmas: Literal[False] = False
    use_flow_sigmas: Literal[False] = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Raises: ValueError, naming each key whose value is not supported."""
        return cls.model_validate(dict(config))

    @cached_property
    def training_sigmas(self) -> Numbers:
        """(num_train_timesteps,) float32, rising."""
        alphas_cumprod = _products(1 - self._betas())
        if self.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2**-24  # close to zero while sigma stays finite: the float before 4096
        return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)

    def sigmas_at(self, timesteps: Numbers) -> Numbers:
        """Interpolated linearly; time steps may be fractional and count from 0, the lowest noise. float64."""
        return np.interp(timesteps, np.arange(len(self.training_sigmas)), self.training_sigmas)

    def timesteps_at(self, sigmas: Numbers) -> Numbers:
        """Interpolated on the logarithm of sigma."""
        levels = np.log(self.training_sigmas, dtype=np.float64)
        return np.interp(np.log(sigmas), levels, np.arange(len(levels)))

    def karras_sigmas(self, first: float, last: float, steps: int) -> Numbers:
        """Karras et al. 2022, equation 5."""
        high = (first if self.sigma_max is None else self.sigma_max) ** (1 / KARRAS_RHO)
        low = (last if self.sigma_min is None else self.sigma_min) ** (1 / KARRAS_RHO)
        return np.asarray((high + np.linspace(0, 1, steps) * (low - high)) ** KARRAS_RHO)

    def plan(self, timesteps: Numbers, sigmas: Numbers, init_noise_sigma: float) -> Plan:
        """Steps of first order through `sigmas` (steps,) and on to the final one."""
        if (np.diff(sigmas) >= 0).any():
            raise ValueError(f"{len(sigmas)} steps are too many for {self.num_train_timesteps} noise levels")
        final = self.training_sigmas[0] if self.final_sigmas_type == "sigma_min" else 0.0
        levels = pairwise(np.append(sigmas, final).astype(np.float32).tolist())
        times = timesteps.astype(np.float32).tolist()
        return Plan(tuple(Step(time, *level) for time, level in zip(times, levels, strict=True)), init_noise_sigma)

    def _betas(self) -> Numbers:
        """(num_train_timesteps,) float32."""
        count = self.num_train_timesteps
        if self.trained_betas is not None:
            betas = np.array(self.trained_betas, np.float32)
        elif self.beta_schedule == "squaredcos_cap_v2":
            betas = _cosine_betas(count)
        elif self.beta_schedule == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, count).astype(np.float32) ** 2
        else:
            betas = np.linspace(self.beta_start, self.beta_end, count).astype(np.float32)
        return _with_zero_snr(betas) if self.rescale_betas_zero_snr else betas


class SolverSchedule(NoiseSchedule):
    """Adds the keys of diffusers' DPMSolverMultistepScheduler."""

    lower_order_final: bool = True
    euler_at_final: bool = False
    lambda_min_clipped: float = -math.inf  # the lowest log(alpha / sigma) that is used

    algorithm_type: Literal["dpmsolver++"] = "dpmsolver++"
    solver_order: Literal[2] = 2
    solver_type: Literal["midpoint"] = "midpoint"
    use_lu_lambdas: Literal[False] = False
    variance_type: None = None

    @property
    def used_levels(self) -> int:
        """How many of the training's noise levels, from the lowest up, are not clipped by `lambda_min_clipped`."""
        return int(np.count_nonzero(-np.log(self.training_sigmas) >= self.lambda_min_clipped))


def _products(factors: Numbers) -> Numbers:
    """Running products, each rounded to float32 once."""
    return np.cumprod(factors, dtype=np.float64).astype(np.float32)


def _cosine_betas(count: int) -> Numbers:
    """Nichol and Dhariwal 2021."""

    def alpha_bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((index + 1) / count) / alpha_bar(index / count), 0.999) for index in range(count)]
    return np.array(betas, np.float32)


def _with_zero_snr(betas: Numbers) -> Numbers:
    """Lin et al. 2023, algorithm 1."""
    roots = np.sqrt(_products(1 - betas))
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    alphas_cumprod = roots**2
    return 1 - np.concatenate([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
