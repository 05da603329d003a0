"""Equations that the diffusion room must satisfy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from vgen.diffusion.draws import Draws
from vgen.diffusion.schedule import (
    Betas,
    Prediction,
    Schedule,
    add_noise,
    prediction_of,
    schedule_of,
    shifted,
    target,
    to_sample_and_noise,
)
from vgen.diffusion.solvers import Solver, Spacing, levels, solve, timesteps
from vgen.diffusion.step_window import StepWindow, Unit

SCHEDULE = Schedule(betas=Betas.LINEAR)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_predictions_invert(prediction: Prediction) -> None:
    x0, noise = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    alpha, sigma = SCHEDULE.alpha_sigma(torch.tensor([0, 200, 600, 999]), x0)
    x_t = add_noise(x0, noise, alpha, sigma)
    got = to_sample_and_noise(prediction, target(prediction, x0, noise, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(got, (x0, noise))


@pytest.mark.parametrize("betas", list(Betas))
def test_schedules_equal_diffusers(betas: Betas) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_schedule=betas.value, beta_start=0.00085, beta_end=0.012)
    torch.testing.assert_close(
        Schedule(betas=betas).alphas_cumprod().float(), theirs.alphas_cumprod, atol=1e-6, rtol=1e-4
    )
    assert schedule_of(dict(theirs.config)).betas is betas


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"beta_schedule": "squaredcos_cap_v2"},
            "scheduler has beta_schedule 'squaredcos_cap_v2'; vgen reads beta_schedule linear and",
        ),
        ({"beta_schedule": "linear", "trained_betas": [0.1]}, "scheduler has trained_betas; vgen reads"),
        (
            {"prediction_type": "flow_prediction"},
            "prediction_type 'flow_prediction'; vgen reads epsilon, v_prediction, sample",
        ),
    ],
)
def test_a_scheduler_of_another_kind_is_named(config: dict[str, Any], message: str) -> None:
    reader = prediction_of if "prediction_type" in config else schedule_of
    with pytest.raises(ValueError, match=message):
        reader(config)


@pytest.mark.parametrize("solver", list(Solver))
def test_solver_recovers_a_gaussian(solver: Solver) -> None:
    """For data ~ N(m, s^2) the exact denoiser is known: E[x0 | x_t] is linear in x_t."""
    mean, std = 0.7, 0.5
    squared = SCHEDULE.alphas_cumprod()

    def denoiser(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        a2 = float(squared[t])
        x0 = mean + std**2 * math.sqrt(a2) / (a2 * std**2 + 1 - a2) * (x - math.sqrt(a2) * mean)
        return x0, (x - math.sqrt(a2) * x0) / math.sqrt(1 - a2)

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(20000, generator=generator)
    out = solve(
        denoiser,
        start,
        SCHEDULE,
        100,
        solver,
        Spacing.TRAILING,
        noise=lambda i: torch.randn(20000, generator=generator),
    )
    assert abs(float(out.mean()) - mean) < 0.02
    assert abs(float(out.std()) - std) < 0.03


def test_more_steps_are_more_exact() -> None:
    squared = SCHEDULE.alphas_cumprod()

    def denoiser(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:  # data ~ N(0, .25)
        a2 = float(squared[t])
        x0 = 0.25 * math.sqrt(a2) / (a2 * 0.25 + 1 - a2) * x
        return x0, (x - math.sqrt(a2) * x0) / math.sqrt(1 - a2)

    x = torch.linspace(-2, 2, 9)
    a2 = float(squared[-1])
    exact = x * 0.5 / math.sqrt(a2 * 0.25 + 1 - a2)  # the probability flow keeps quantiles
    for solver in (Solver.DDIM, Solver.DPM_PP_2M):
        errors = [
            float((solve(denoiser, x, SCHEDULE, n, solver, Spacing.TRAILING) - exact).abs().max())
            for n in (10, 40, 160)
        ]
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("clean", [True, False])
def test_ddim_equals_diffusers(clean: bool) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=clean,
    )
    theirs.set_timesteps(25)
    schedule = schedule_of(dict(theirs.config))
    assert schedule == Schedule(betas=Betas.LINEAR, ddim_ends_clean=clean)
    assert timesteps(SCHEDULE, 25, Solver.DDIM) == theirs.timesteps.tolist()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    eps = {t: torch.randn(2, 3) for t in theirs.timesteps.tolist()}
    want = x
    for t in theirs.timesteps:
        want = theirs.step(eps[int(t)], t, want).prev_sample

    def denoiser(x_t: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = SCHEDULE.alpha_sigma(torch.tensor([t]), x_t)
        return to_sample_and_noise(Prediction.EPSILON, eps[t], x_t, alpha, sigma)

    torch.testing.assert_close(solve(denoiser, x, schedule, 25, Solver.DDIM), want, atol=1e-5, rtol=1e-5)


def test_only_ddim_ends_at_the_level_that_the_scheduler_says() -> None:
    """Stable Diffusion's configurations say ``set_alpha_to_one: false``; without the key it is true."""
    betas = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012}
    assert schedule_of(betas).ddim_ends_clean
    short = schedule_of(betas | {"set_alpha_to_one": False})
    for solver in Solver:
        last = levels(short, [5], solver)[-1]
        assert last.sigma**2 == pytest.approx(0.00085 if solver is Solver.DDIM else 0)
        assert last.alpha**2 + last.sigma**2 == pytest.approx(1)


def test_grids_descend_and_end_clean() -> None:
    for spacing in (Spacing.LEADING, Spacing.TRAILING):
        ts = timesteps(SCHEDULE, 7, Solver.DDIM, spacing)
        assert ts == sorted(ts, reverse=True)
        assert len(set(ts)) == 7
    assert timesteps(SCHEDULE, 7, Solver.DDIM, Spacing.TRAILING)[0] == 999
    assert levels(SCHEDULE, [5])[-1].sigma == 0
    with pytest.raises(ValueError, match=r"num_steps must lie in 1\.\.1000, got 0"):
        timesteps(SCHEDULE, 0, Solver.DDIM)


def test_ancestral_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise source"):
        solve(lambda x, t: (x, x), torch.zeros(1), SCHEDULE, 3, Solver.EULER_ANCESTRAL)


def test_draws_depend_on_key_and_purpose_alone() -> None:
    like = torch.empty(2, 3, 4)
    both = Draws(7, [("a", 0), ("b", 0)]).normal("noise", like)
    torch.testing.assert_close(Draws(7, [("b", 0)]).normal("noise", like[:1])[0], both[1])
    for other in (Draws(8, [("a", 0)]), Draws(7, [("a", 1)])):
        assert not torch.equal(other.normal("noise", like[:1])[0], both[0])
    assert not torch.equal(Draws(7, [("a", 0)]).normal("start", like[:1])[0], both[0])
    many = Draws(0, [(str(i), 0) for i in range(400)])
    t = many.integers("timestep", 1000, torch.device("cpu"))
    assert t.min() < 50
    assert t.max() > 950
    assert abs(float(t.float().mean()) - 500) < 60


def test_draws_are_normal_and_independent() -> None:
    """Moments, tails and correlations of a million numbers; .005 is five standard errors of a mean."""
    keys = [(f"sample-{i}", i % 3) for i in range(256)]
    x = Draws(3, keys).normal("noise", torch.empty(256, 4096))
    assert abs(float(x.mean())) < 0.005
    assert abs(float(x.var()) - 1) < 0.007
    assert abs(float((x**4).mean()) - 3) < 0.03
    assert abs(float((x.abs() > 3).float().mean()) - 0.0027) < 0.0003
    assert float(x.abs().max()) < 6
    assert float((x[:, :-1] * x[:, 1:]).mean().abs()) < 0.005, "neighbours in a stream"
    assert float((x[:-1] * x[1:]).mean().abs()) < 0.005, "streams of neighbouring samples"
    assert float((x * Draws(3, keys).normal("other", x)).mean().abs()) < 0.005, "purposes"
    assert Draws(3, keys).normal("noise", torch.empty(256, 3, 5, dtype=torch.float16)).shape == (256, 3, 5)
    torch.testing.assert_close(Draws(3, keys).normal("noise", torch.empty(256, 15)), x[:, :15])


@pytest.mark.parametrize(
    ("shift", "median", "noisy_share"), [(1.0, 0.5, 0.3), (3.0, 0.75, 0.5625), (0.5, 1 / 3, 0.176)]
)
def test_shifted_timesteps_keep_their_range_and_order(
    shift: float, median: float, noisy_share: float
) -> None:
    t = torch.arange(1000)
    got = shifted(t, shift, 1000)
    assert got.min() >= 0
    assert got.max() <= 999
    assert (got.diff() >= 0).all()
    assert got.double().median() / 1000 == pytest.approx(median, abs=2e-3)
    assert (got >= 700).double().mean() == pytest.approx(noisy_share, abs=2e-3)
    assert shift != 1 or torch.equal(got, t)


@pytest.mark.parametrize("num_steps", [1, 2, 9, 10, 25, 50, 100, 350, 501, 600, 999, 1000])
def test_no_usual_grid_shows_pure_noise_to_a_model_that_expects_little(num_steps: int) -> None:
    """One step of DDIM was asked at timestep 1, and 600 steps from 600 on."""
    found = timesteps(SCHEDULE, num_steps, Solver.DDIM)
    assert found[0] >= 900
    assert len(found) == num_steps
    leading, trailing = (
        timesteps(SCHEDULE, num_steps, Solver.DDIM, spacing)
        for spacing in (Spacing.LEADING, Spacing.TRAILING)
    )
    assert found == (trailing if num_steps < 10 or num_steps in (350, 501, 600) else leading)
    assert leading[0] == min((num_steps - 1) * (1000 // num_steps) + 1, 999), "as asked for"


@pytest.mark.parametrize(
    ("share", "of_50"), [(0.8, 40), (0.4, 20), (0.75, 38), (0.55, 28), (1.0, 50), (0.0, 0)]
)
def test_shares_of_words_are_of_a_table_with_a_row_more(share: float, of_50: int) -> None:
    """int(share * 51): as int(share * 50), or one more."""
    window = StepWindow(end=share).of_rows(50)
    assert list(window.steps(50)) == list(range(of_50))
    assert of_50 - int(share * 50) in (0, 1)
    assert StepWindow(start=0.55, end=1.0).of_rows(50).steps(50) == range(28, 50)
    left = StepWindow(start=20, end=10, unit=Unit.REMAINING)
    assert left.of_rows(50) is left, "what is counted in steps is none of a share"
