import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.config import model_path
from deployments.diffusion.model.sampler import (
    EULER_DEFAULTS,
    DPMSolver2M,
    Euler,
    NoiseSchedule,
    Numbers,
    Plan,
    Positions,
    Sampler,
    SolverSchedule,
    Step,
    sampler_of,
)
from tests.support import tolerance

Config = dict[str, Any]

# A step of Euler is six operations. The solver's library subtracts logarithms up to 9, over steps of 0.1 and more.
STEP_ROUNDINGS = {Euler: 8, DPMSolver2M: 90}
SHAPE = (4, 8, 8)
STEP_COUNTS = (1, 2, 3, 8, 14, 15, 20, 50)
CPU = torch.device("cpu")

# The library hands tensors to numpy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:(diffusers|numpy)")

BETAS: dict[str, Config] = {
    "sd": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
EULER, SOLVER = "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"

EMBEDDED: Config = json.loads((model_path(Path("embedded:diffusion")) / "scheduler/scheduler_config.json").read_text())
SD15: Config = {  # as published
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SDXL: Config = {  # as published
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def library_scheduler(config: Mapping[str, Any], steps: int) -> Any:
    scheduler = getattr(diffusers, config["_class_name"])(**{k: v for k, v in config.items() if not k.startswith("_")})
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)  # else one that has a timestep twice starts at the second of them
    return scheduler


def normal(seed: int, step: int) -> torch.Tensor:
    """(1, c, h, w): what a model might predict for the row of this seed at this step; at -1 its first noise."""
    generator = torch.Generator().manual_seed(1000 * seed + step + 1)
    return torch.randn((1, *SHAPE), generator=generator)


def levels_tolerance(schedule: NoiseSchedule, sigmas: Numbers) -> Numbers:
    """Of each level, relative: the library's last bits depend on the processor.

    sigma² is (1 - a) / a, where a is a running product of as many factors as there are levels: an error of a
    is one of (1 + 1 / sigma²) / 2 of sigma. With a terminal SNR of zero, roots of a are moved to end at zero, which
    makes errors greater as a gets smaller. Between the ends of the Karras spacing the error is that of an end.
    """
    factors = tolerance.roundings(np.sqrt(schedule.num_train_timesteps))
    amplified = (1 + sigmas**-2.0 + (sigmas if schedule.rescale_betas_zero_snr else 0)) / 2
    within = factors * amplified
    return np.full_like(within, within.max()) if schedule.use_karras_sigmas else within


def assert_same_timesteps(schedule: NoiseSchedule, plan: Plan, theirs: Numbers) -> None:
    """Of the Karras spacing they are read off the levels, and then rounded where the solver is."""
    ours = np.array([step.timestep for step in plan.steps])
    if not schedule.use_karras_sigmas:
        assert ours.tolist() == theirs.tolist()
        return
    sigmas = np.array([step.sigma for step in plan.steps])
    within = levels_tolerance(schedule, sigmas)
    lowest, highest = (schedule.timesteps_at(sigmas * (1 + sign * within)) for sign in (-1, 1))
    rounding = 1.0 if isinstance(schedule, SolverSchedule) else tolerance.roundings(schedule.num_train_timesteps)
    assert ((lowest - rounding <= theirs) & (theirs <= highest + rounding)).all()


def assert_same_plan(sampler: Sampler, plan: Plan, scheduler: Any) -> None:
    schedule, theirs = sampler.schedule, scheduler.sigmas.numpy()
    sigmas = np.array([step.sigma for step in plan.steps])
    within = levels_tolerance(schedule, sigmas)
    assert_same_timesteps(schedule, plan, scheduler.timesteps.numpy())
    assert (np.abs(sigmas - theirs[:-1]) <= within * sigmas).all()
    assert [step.sigma_next for step in plan.steps[:-1]] == sigmas[1:].tolist()
    assert plan.steps[-1].sigma_next == pytest.approx(theirs[-1], rel=within[-1], abs=0)
    assert plan.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma), rel=within[0])


def at_levels_of(scheduler: Any, plan: Plan, sampler: Sampler) -> tuple[Step, ...]:
    """The steps of a plan at the library's own levels, so that nothing but the arithmetic of the steps differs."""
    sigmas = scheduler.sigmas.tolist()
    levels = zip(scheduler.timesteps.tolist(), sigmas[:-1], sigmas[1:], strict=True)
    steps = tuple(Step(*level) for level in levels)
    return sampler._with_history(steps) if isinstance(sampler, DPMSolver2M) else steps


def assert_same_steps(sampler: Sampler, scheduler: Any) -> None:
    """Each step from the library's latents, with the same predictions; relative to the largest number in it."""
    plan = sampler.plan(len(scheduler.timesteps))
    within = tolerance.roundings(STEP_ROUNDINGS[type(sampler)])
    latents = normal(0, -1) * plan.init_noise_sigma
    previous = torch.zeros_like(latents)
    for index, step in enumerate(at_levels_of(scheduler, plan, sampler)):
        at, timestep, prediction = Positions.of([step], CPU), scheduler.timesteps[index], normal(0, index)
        model_input = scheduler.scale_model_input(latents, timestep)
        assert tolerance.relative(sampler.scale_model_input(latents, at), model_input) <= within
        ours, previous = sampler.step(latents, prediction, previous, at)
        theirs = scheduler.step(prediction, timestep, latents).prev_sample
        largest = max(latents.abs().max(), theirs.abs().max(), step.sigma * prediction.abs().max())
        assert (ours - theirs).abs().max() <= within * largest
        latents = theirs


def assert_same(config: Mapping[str, Any], steps: int, library_config: Mapping[str, Any] | None = None) -> None:
    sampler, scheduler = sampler_of(config), library_scheduler(library_config or config, steps)
    assert_same_plan(sampler, sampler.plan(steps), scheduler)
    assert_same_steps(sampler, scheduler)


@pytest.mark.parametrize("kind", [EULER, SOLVER])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("karras", [False, True], ids=["", "karras"])
@pytest.mark.parametrize("zero_snr", [False, True], ids=["", "zero-snr"])
def test_each_step_equals_the_librarys_scheduler(
    kind: str, betas: str, prediction_type: str, spacing: str, karras: bool, zero_snr: bool
) -> None:
    config = {
        "_class_name": kind,
        **BETAS[betas],
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        "use_karras_sigmas": karras,
        "rescale_betas_zero_snr": zero_snr,
    }
    for steps in STEP_COUNTS:
        assert_same(config, steps)


@pytest.mark.parametrize("kind", [EULER, SOLVER])
@pytest.mark.parametrize(
    "changes",
    [
        {"steps_offset": 1, "timestep_spacing": "leading"},
        {"prediction_type": "sample"},
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True},
        {"num_train_timesteps": 200, "timestep_spacing": "trailing"},
        {"trained_betas": [0.001 + 0.0001 * index for index in range(1000)]},
    ],
    ids=str,
)
def test_the_other_settings_are_the_librarys_too(kind: str, changes: Config) -> None:
    for steps in STEP_COUNTS:
        assert_same({"_class_name": kind, **BETAS["sd"], **changes}, steps)


def test_the_ends_of_eulers_karras_spacing_can_be_given() -> None:
    config = {"_class_name": EULER, **BETAS["sd"], "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}
    for steps in STEP_COUNTS:
        assert_same(config, steps)


@pytest.mark.parametrize("lower_order_final", [False, True])
@pytest.mark.parametrize("euler_at_final", [False, True])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [2, 14, 15])
def test_the_solvers_last_step_has_the_librarys_order(
    lower_order_final: bool, euler_at_final: bool, final_sigmas_type: str, steps: int
) -> None:
    config = {
        "_class_name": SOLVER,
        **BETAS["sd"],
        "lower_order_final": lower_order_final,
        "euler_at_final": euler_at_final,
        "final_sigmas_type": final_sigmas_type,
    }
    assert_same(config, steps)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_the_solver_leaves_out_the_levels_below_its_clipped_lambda(spacing: str) -> None:
    config = {"_class_name": SOLVER, **BETAS["cosine"], "timestep_spacing": spacing, "lambda_min_clipped": -2.0}
    sampler, scheduler = sampler_of(config), library_scheduler(config, 20)
    assert_same_plan(sampler, sampler.plan(20), scheduler)
    assert sampler.plan(20).steps[0].timestep < 950


@pytest.mark.parametrize(
    "config",
    [
        EMBEDDED,
        SDXL,
        {"_class_name": EULER, **BETAS["sd"], "use_karras_sigmas": True},
        {"_class_name": SOLVER, **BETAS["sd"], "use_karras_sigmas": True},
        {"_class_name": SOLVER, **BETAS["cosine"], "use_karras_sigmas": True},
    ],
    ids=["embedded", "sdxl", "euler-karras", "solver-karras", "solver-karras-cosine"],
)
def test_a_plan_of_any_number_of_steps_is_the_librarys(config: Config) -> None:
    known = signature(getattr(diffusers, config["_class_name"]).__init__).parameters
    ours_and_theirs = {key: value for key, value in config.items() if key in known or key == "_class_name"}
    for steps in range(1, 51):
        sampler = sampler_of(config)
        assert_same_plan(sampler, sampler.plan(steps), library_scheduler(ours_and_theirs, steps))


def test_the_embedded_folder_is_drawn_as_the_library_does() -> None:
    scheduler = EulerDiscreteScheduler.from_pretrained(model_path(Path("embedded:diffusion")) / "scheduler")
    scheduler.set_timesteps(12)
    sampler = sampler_of(EMBEDDED)
    assert_same_plan(sampler, sampler.plan(12), scheduler)
    assert_same_steps(sampler, scheduler)


def test_the_noise_of_the_embedded_folder_is_the_same_float_on_every_processor() -> None:
    plan = sampler_of(EMBEDDED).plan(12)
    # sqrt((1 - 2**-24) / 2**-24), rounded to float32 once; torch gives this or 4096, as the processor has it.
    assert plan.steps[0].sigma == plan.init_noise_sigma == np.float32((2**24 - 1) ** 0.5) < 4096


def test_a_published_sdxl_folder_is_drawn_as_the_library_does() -> None:
    scheduler = EulerDiscreteScheduler.from_config(SDXL)
    scheduler.set_timesteps(30)
    assert sampler_of(SDXL).plan(30).steps[0].timestep == 29 * 33 + 1
    assert_same_plan(sampler_of(SDXL), sampler_of(SDXL).plan(30), scheduler)
    assert_same_steps(sampler_of(SDXL), scheduler)


def test_a_published_sd15_folder_is_drawn_with_euler_at_the_timesteps_of_its_own_kind() -> None:
    pndm = diffusers.PNDMScheduler.from_config(SD15)
    pndm.set_timesteps(20)
    plan = sampler_of(SD15).plan(20)
    # PNDM's second timestep comes twice: it warms up.
    assert [step.timestep for step in plan.steps] == sorted(set(pndm.timesteps.tolist()), reverse=True)
    assert_same(SD15, 20, {"_class_name": EULER, **BETAS["sd"], "timestep_spacing": "leading", "steps_offset": 1})


@pytest.mark.parametrize("kind", EULER_DEFAULTS)
def test_what_a_folder_leaves_out_is_the_default_of_its_own_scheduler(kind: str) -> None:
    defaults = getattr(diffusers, kind)().config
    shared = {key: defaults[key] for key in signature(EulerDiscreteScheduler.__init__).parameters if key in defaults}
    ours = sampler_of({"_class_name": kind, "clip_sample": False})
    assert isinstance(ours, Euler)
    assert_same_plan(ours, ours.plan(20), library_scheduler({"_class_name": EULER, **shared}, 20))


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_a_folder_that_leaves_out_clipping_where_it_is_the_default_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="clip_sample"):
        sampler_of({"_class_name": kind, **BETAS["sd"]})


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (EULER, "beta_schedule", "sigmoid"),
        (EULER, "clip_sample", True),
        (EULER, "final_sigmas_type", "one"),
        (EULER, "interpolation_type", "log_linear"),
        (EULER, "prediction_type", "flow_prediction"),
        (EULER, "timestep_spacing", "random"),
        (EULER, "timestep_type", "continuous"),
        (EULER, "use_beta_sigmas", True),
        (EULER, "use_exponential_sigmas", True),
        ("UniPCMultistepScheduler", "shift_terminal", 0.1),
        ("UniPCMultistepScheduler", "use_flow_sigmas", True),
        ("DDIMScheduler", "thresholding", True),
        (SOLVER, "algorithm_type", "dpmsolver"),
        (SOLVER, "algorithm_type", "sde-dpmsolver++"),
        (SOLVER, "solver_order", 1),
        (SOLVER, "solver_order", 3),
        (SOLVER, "solver_type", "heun"),
        (SOLVER, "thresholding", True),
        (SOLVER, "use_dynamic_shifting", True),
        (SOLVER, "use_flow_sigmas", True),
        (SOLVER, "use_lu_lambdas", True),
        (SOLVER, "variance_type", "learned_range"),
    ],
)
def test_a_setting_that_no_sampler_has_is_refused_by_name(kind: str, key: str, value: object) -> None:
    sampler_of({"_class_name": kind, "clip_sample": False})
    with pytest.raises(ValueError, match=key):
        sampler_of({"_class_name": kind, "clip_sample": False, key: value})


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "LCMScheduler", "EDMEulerScheduler", None])
def test_a_scheduler_of_another_kind_is_refused_by_name(kind: str | None) -> None:
    with pytest.raises(ValueError, match=str(kind)):
        sampler_of({"_class_name": kind, **BETAS["sd"]})


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_every_setting_of_the_librarys_scheduler_is_known(kind: type) -> None:
    without_effect = {  # while the settings they belong to are refused
        "dynamic_thresholding_ratio",
        "flow_shift",
        "sample_max_value",
        "time_shift_type",
    }
    assert set(signature(kind.__init__).parameters) - {"self"} - without_effect <= set(SolverSchedule.model_fields)


def test_more_steps_than_the_training_had_noise_levels_are_refused() -> None:
    assert len(sampler_of(EMBEDDED).plan(1000).steps) == 1000
    with pytest.raises(ValueError, match="1001 steps"):
        sampler_of(EMBEDDED).plan(1001)


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from([EULER, SOLVER]),
    prediction_type=st.sampled_from(["epsilon", "v_prediction"]),
    zero_snr=st.booleans(),
    # How many batches a row arrives after the first, and how many steps it takes.
    rows=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1, 2, 3, 5, 8, 15])), min_size=1, max_size=6),
)
def test_rows_at_steps_of_their_own_end_to_the_last_bit_as_each_does_alone(
    kind: str, prediction_type: str, zero_snr: bool, rows: list[tuple[int, int]]
) -> None:
    config = {
        "_class_name": kind,
        **BETAS["sd"],
        "prediction_type": prediction_type,
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": zero_snr,
    }
    together = drawn(sampler_of(config), dict(enumerate(rows)))
    for seed, row in enumerate(rows):
        alone = drawn(sampler_of(config), {seed: row})
        assert torch.equal(together[seed], alone[seed])


def drawn(sampler: Sampler, rows: Mapping[int, tuple[int, int]]) -> dict[int, torch.Tensor]:
    """The last latents of each row, by its seed; a row is in the batch from its arrival until its steps are done."""
    plans = {seed: sampler.plan(steps) for seed, (_, steps) in rows.items()}
    latents = {seed: normal(seed, -1) * plan.init_noise_sigma for seed, plan in plans.items()}
    previous = {seed: torch.zeros_like(noise) for seed, noise in latents.items()}
    for batch in range(max(arrival + steps for arrival, steps in rows.values())):
        steps_done = {seed: batch - arrival for seed, (arrival, steps) in rows.items() if 0 <= batch - arrival < steps}
        if not steps_done:
            continue
        at = Positions.of([plans[seed].steps[done] for seed, done in steps_done.items()], CPU)
        after, denoised = sampler.step(
            torch.cat([latents[seed] for seed in steps_done]),
            torch.cat([normal(seed, done) for seed, done in steps_done.items()]),
            torch.cat([previous[seed] for seed in steps_done]),
            at,
        )
        latents |= dict(zip(steps_done, after.split(1), strict=True))
        previous |= dict(zip(steps_done, denoised.split(1), strict=True))
    return latents


@pytest.mark.parametrize("kind", [EULER, SOLVER])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_model_that_knows_the_picture_ends_at_it(kind: str, spacing: str, steps: int) -> None:
    sampler = sampler_of({"_class_name": kind, **BETAS["sd"], "timestep_spacing": spacing})
    plan, picture = sampler.plan(steps), normal(1, 0)
    latents, previous = normal(0, -1) * plan.init_noise_sigma, torch.zeros(1, *SHAPE)
    within = tolerance.roundings(8) * tolerance.WORST * (1 + plan.steps[0].sigma)  # of the largest noisy latents
    for step in plan.steps:
        at = Positions.of([step], CPU)
        # The input is (picture + sigma * noise) / sqrt(sigma² + 1), whatever the latents' own scale.
        noisy = sampler.scale_model_input(latents, at) * (step.sigma**2 + 1) ** 0.5
        latents, previous = sampler.step(latents, (noisy - picture) / step.sigma, previous, at)
        assert torch.allclose(previous, picture, atol=within, rtol=0)
    assert torch.allclose(latents, picture, atol=within, rtol=0)


@pytest.mark.parametrize("config", [EMBEDDED, SDXL, {"_class_name": SOLVER, "prediction_type": "sample"}], ids=str)
def test_a_prediction_of_a_smaller_float_type_leaves_the_latents_in_float32(config: Config) -> None:
    sampler = sampler_of(config)
    at = Positions.of(sampler.plan(8).steps[3:5], CPU)
    latents, prediction, previous = (torch.cat([normal(0, i), normal(1, i)]) for i in range(3))
    small = prediction.to(torch.bfloat16)
    for ours, expected in zip(
        sampler.step(latents, small, previous, at), sampler.step(latents, small.float(), previous, at), strict=True
    ):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected)


def test_a_rows_first_step_does_not_look_at_an_estimate_before_it() -> None:
    sampler = sampler_of({"_class_name": SOLVER, **BETAS["sd"]})
    assert isinstance(sampler, DPMSolver2M)
    steps = sampler.plan(8).steps
    first, second = Positions.of(steps[:1], CPU), Positions.of(steps[1:2], CPU)
    latents, prediction = normal(0, 0), normal(0, 1)
    results = {
        (name, seed): sampler.step(latents, prediction, normal(seed, 2), at)[0]
        for seed in (1, 2)
        for name, at in (("first", first), ("second", second))
    }
    assert torch.equal(results["first", 1], results["first", 2])
    assert not torch.allclose(results["second", 1], results["second", 2])
