"""Samplers: move latents down the noise levels of a model, for batches of rows that are at different steps.

Stateless. A row owns its plan, its position in it and its last denoised estimate; one call advances all rows by a
step, in float32. Euler's operations are in the same order as in diffusers, because it is visible: from a first sigma of
4096 (zero terminal SNR) the sum keeps four digits, and another order gives different ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from deployments.diffusion.model.noise_schedule import (
    NoiseSchedule,
    Numbers,
    Plan,
    PredictionType,
    SolverSchedule,
    Step,
)
from deployments.diffusion.model.transfer import to_device

FEW_STEPS = 15  # below it, the last step of DPM-Solver++ is of first order where `lower_order_final`

# Scheduler classes that are sampled with Euler, with their defaults that differ from Euler's: old folders omit keys.
EULER_DEFAULTS: dict[str, dict[str, Any]] = {
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "HeunDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2DiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2AncestralDiscreteScheduler": {"beta_start": 0.00085, "beta_end": 0.012},
    "PNDMScheduler": {"timestep_spacing": "leading"},
    "DDIMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
    "DDPMScheduler": {"timestep_spacing": "leading", "clip_sample": True},
}


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The current steps of the rows of a batch as float32 tensors: `timestep` (rows,), the others (rows, 1, 1, 1).

    `norm` is sqrt(sigma² + 1), the standard deviation of the noisy latents, `keep` is sqrt(1 - skip). Computed on the
    host: the result of torch's square root depends on the processor.
    """

    timestep: Tensor
    sigma: Tensor
    sigma_next: Tensor
    extrapolation: Tensor
    skip: Tensor
    keep: Tensor
    norm: Tensor
    norm_next: Tensor

    @classmethod
    def of(cls, steps: Sequence[Step], device: torch.device) -> Self:
        """Makes one copy to the device."""
        table = np.array(steps, np.float32)  # (rows, 5)
        table = np.hstack([table, np.sqrt(1 - table[:, 4:]), np.sqrt(table[:, 1:3] ** 2 + 1)])
        timestep, *others = to_device(torch.from_numpy(table), device).unbind(1)
        return cls(timestep, *(column[:, None, None, None] for column in others))

    def __getitem__(self, rows: slice) -> Self:
        """Those of some rows."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


class Sampler(Protocol):
    """A sampling method. Latents and estimates are (rows, c, h, w) in float32; see Positions for the rest."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise levels of the model; what differs from the defaults is written in receipts."""
        ...

    @property
    def adds_noise(self) -> bool:
        """Whether `step` takes new noise."""
        ...

    def plan(self, steps: int) -> Plan:
        """For 1 step or more. Raises: ValueError where the spacing has no noise levels for so many."""

    def scale_model_input(self, latents: Tensor, at: Positions) -> Tensor:
        """The latents scaled to the model's input."""

    def step(
        self, latents: Tensor, prediction: Tensor, previous: Tensor, at: Positions, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The latents after the step, and the denoised estimate, the row's `previous` in its next step.

        A row at its first step may bring any finite `previous`. The prediction may be of a smaller float type. `noise`
        is standard normal, and any finite numbers in a row's last step; None where the sampler adds none.
        """


def sampler_of(config: Mapping[str, Any]) -> Sampler:
    """The sampler for a diffusers `scheduler_config.json`.

    DPMSolverMultistepScheduler becomes DPM-Solver++(2M). Every other known class is sampled with Euler on the same
    betas, spacing and prediction type, including solvers that need several predictions a step or a longer history, and
    those that add noise during sampling (the image then depends on the initial noise alone).

    Raises: ValueError where the scheduler's class, or a setting that changes the image, is not supported.
    """
    kind = config.get("_class_name")
    if kind == "DPMSolverMultistepScheduler":
        return DPMSolver2M(SolverSchedule.of(config))
    if kind in EULER_DEFAULTS:
        return Euler(NoiseSchedule.of(EULER_DEFAULTS[kind] | dict(config)))
    known = ", ".join(["DPMSolverMultistepScheduler", *EULER_DEFAULTS])
    raise ValueError(f"The scheduler {kind} has no sampler here; these have: {known}")


@dataclass(frozen=True)
class Euler:
    """Latents are x0 + sigma * noise; the model's input has variance 1."""

    schedule: NoiseSchedule
    adds_noise = False

    def plan(self, steps: int) -> Plan:
        """As `Sampler.plan`. The first latents are noise of sigma, for leading spacing of sqrt(sigma² + 1)."""
        schedule = self.schedule
        timesteps = self._timesteps(steps)
        sigmas = schedule.sigmas_at(timesteps)
        if schedule.use_karras_sigmas:
            sigmas = schedule.karras_sigmas(float(sigmas[0]), float(sigmas[-1]), steps)
            timesteps = schedule.timesteps_at(sigmas)
        highest = np.float32(sigmas[0])
        # With leading spacing the first level is below the last one of the training, where some signal is left.
        init = np.sqrt(highest**2 + 1) if schedule.timestep_spacing == "leading" else highest
        return schedule.plan(timesteps, sigmas, float(init))

    def scale_model_input(self, latents: Tensor, at: Positions) -> Tensor:
        """Divided by sqrt(sigma² + 1), the standard deviation of noisy latents."""
        return latents / at.norm

    def step(
        self, latents: Tensor, prediction: Tensor, previous: Tensor, at: Positions, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One `euler_step` for each row; `previous` is not used."""
        denoised = denoise(latents, prediction, at, self.schedule.prediction_type)
        return euler_step(latents, denoised, at.sigma, at.sigma_next), denoised

    def _timesteps(self, steps: int) -> Numbers:
        count = self.schedule.num_train_timesteps
        match self.schedule.timestep_spacing:
            case "linspace":
                return np.linspace(0, count - 1, steps, dtype=np.float32)[::-1]
            case "leading":
                return np.arange(steps)[::-1] * float(count // steps) + self.schedule.steps_offset
            case "trailing":
                return _trailing(count, count / steps, steps)


@dataclass(frozen=True)
class DPMSolver2M:
    """DPM-Solver++(2M). Latents are (x0 + sigma * noise) / sqrt(sigma² + 1): of variance 1, like the model's input."""

    schedule: SolverSchedule
    adds_noise = False

    def plan(self, steps: int) -> Plan:
        """As `Sampler.plan`: of second order, except for the first step and, where it would be unstable, the last."""
        schedule = self.schedule
        timesteps = self._timesteps(steps)
        sigmas = schedule.sigmas_at(timesteps)
        if schedule.use_karras_sigmas:
            first, last = schedule.training_sigmas[[-1, 0]]
            sigmas = schedule.karras_sigmas(float(first), float(last), steps)
            timesteps = schedule.timesteps_at(sigmas)
            timesteps = np.trunc(timesteps) if schedule.beta_schedule == "squaredcos_cap_v2" else timesteps.round()
        plan = schedule.plan(timesteps, sigmas, init_noise_sigma=1.0)
        return replace(plan, steps=self._with_history(plan.steps))

    def scale_model_input(self, latents: Tensor, at: Positions) -> Tensor:
        """The latents themselves, which have variance 1 at every step."""
        return latents

    def step(
        self, latents: Tensor, prediction: Tensor, previous: Tensor, at: Positions, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One `dpm_solver_2m_step` for each row, in x0 + sigma * noise, scaled back to variance 1."""
        noisy = latents * at.norm  # x0 + sigma * noise
        denoised = denoise(noisy, prediction, at, self.schedule.prediction_type)
        stepped = dpm_solver_2m_step(noisy, denoised, previous, at.sigma, at.sigma_next, at.extrapolation)
        return stepped / at.norm_next, denoised

    def _timesteps(self, steps: int) -> Numbers:
        count = self.schedule.used_levels
        match self.schedule.timestep_spacing:
            case "linspace":
                return np.linspace(0, count - 1, steps + 1).round()[:0:-1]
            case "leading":
                return np.arange(1, steps + 1)[::-1] * float(count // (steps + 1)) + self.schedule.steps_offset
            case "trailing":
                return _trailing(count, self.schedule.num_train_timesteps / steps, steps)

    def _with_history(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """Second order except in the first step, which has no previous estimate, and an unstable last one."""
        schedule = self.schedule
        few = schedule.lower_order_final and len(steps) < FEW_STEPS
        lower_last = schedule.euler_at_final or few or schedule.final_sigmas_type == "zero"
        second_order = range(1, len(steps) - lower_last)
        return tuple(
            step._replace(extrapolation=_extrapolation(steps[index - 1], step)) if index in second_order else step
            for index, step in enumerate(steps)
        )


def denoise(latents: Tensor, prediction: Tensor, at: Positions, prediction_type: PredictionType) -> Tensor:
    """The model's estimate of x0, where latents are x0 + sigma * noise."""
    if prediction_type == "epsilon":
        return latents - at.sigma * prediction
    if prediction_type == "v_prediction":
        return prediction * (-at.sigma / at.norm) + latents / (at.sigma**2 + 1)
    return prediction.to(latents.dtype)


def euler_step(latents: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Karras et al. 2022, algorithm 2 (Euler steps, no churn); latents are x0 + sigma * noise."""
    slope = (latents - denoised) / sigma
    return latents + slope * (sigma_next - sigma)


def dpm_solver_2m_step(
    latents: Tensor,
    denoised: Tensor,
    previous: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    extrapolation: Tensor,
) -> Tensor:
    """Lu et al. 2022, DPM-Solver++, algorithm 2; latents are x0 + sigma * noise, so exp(-h) is sigma_next / sigma."""
    ahead = denoised + extrapolation * (denoised - previous)
    kept = sigma_next / sigma
    return kept * latents + (1 - kept) * ahead


def _extrapolation(before: Step, step: Step) -> float:
    """1 / 2r of Lu et al. 2022: half of this step's length over the previous one's, in log sigma."""
    return 0.5 * math.log(step.sigma / step.sigma_next) / math.log(before.sigma / step.sigma)


def _trailing(first: int, stride: float, steps: int) -> Numbers:
    # Rounding errors of the stride can add a step beyond the last one.
    return np.arange(first, 0, -stride).round()[:steps] - 1
