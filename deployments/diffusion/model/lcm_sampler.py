"""The sampler of latent consistency models: Luo et al. 2023."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from deployments.diffusion.model.noise_schedule import NoiseSchedule, Plan
from deployments.diffusion.model.sampler import Positions, denoise

DISTILLED_STEPS = 50  # of the solver that the published models were distilled from; requests have no more
DATA_VARIANCE = 0.25  # of the boundary condition, as the published models have it
TIMESTEP_SCALING = 10.0


@dataclass(frozen=True)
class LCM:
    """Every step goes to an estimate of x0 and back to the next level with new noise; latents are of variance 1.

    As diffusers' LCMScheduler, which takes the betas and the prediction type of a model, and not its spacing.
    """

    schedule: NoiseSchedule
    adds_noise = True

    def plan(self, steps: int) -> Plan:
        """As `Sampler.plan`: evenly spaced among the levels of the distillation, from the highest."""
        if steps > DISTILLED_STEPS:
            raise ValueError(f"LCM takes at most {DISTILLED_STEPS} steps")
        stride = self.schedule.num_train_timesteps // DISTILLED_STEPS
        distilled = np.arange(DISTILLED_STEPS, 0, -1) * stride - 1
        timesteps = distilled[np.floor(np.linspace(0, DISTILLED_STEPS, steps, endpoint=False)).astype(int)]
        plan = self.schedule.plan(timesteps, self.schedule.sigmas_at(timesteps), init_noise_sigma=1.0)
        return replace(plan, steps=tuple(step._replace(skip=_skip(step.timestep)) for step in plan.steps))

    def scale_model_input(self, latents: Tensor, at: Positions) -> Tensor:
        """The latents themselves, which have variance 1 at every step."""
        return latents

    def step(
        self, latents: Tensor, prediction: Tensor, previous: Tensor, at: Positions, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Multistep consistency sampling, algorithm 3; `previous` is not used."""
        if noise is None:
            raise TypeError("LCM adds noise")
        estimate = denoise(latents * at.norm, prediction, at, self.schedule.prediction_type)
        denoised = at.keep * estimate + at.skip * latents
        return (denoised + at.sigma_next * noise) / at.norm_next, denoised


def _skip(timestep: float) -> float:
    """c_skip of the boundary condition; c_out is sqrt(1 - c_skip)."""
    return DATA_VARIANCE / ((TIMESTEP_SCALING * timestep) ** 2 + DATA_VARIANCE)
