"""Inversion and guidance against what can be derived."""

from __future__ import annotations

import math

import pytest
import torch

from vgen.diffusion.guidance import Cfg, Dual
from vgen.diffusion.inversion import NullText, Trajectory, ddim_invert, noised, null_text
from vgen.diffusion.schedule import Schedule
from vgen.diffusion.solvers import Solver, StepHooks, levels, solve, timesteps

SCHEDULE = Schedule()
X0 = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
DRIFT = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def told(eps):
    """A denoiser from a noise prediction ``(x, t) -> eps``."""

    def denoiser(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        level = levels(SCHEDULE, [t])[0]
        e = eps(x, t)
        return (x - level.sigma * e) / level.alpha, e

    return denoiser


def round_trip(eps, num_steps: int, **how: int) -> float:
    denoiser = told(eps)
    back = solve(denoiser, ddim_invert(denoiser, X0, SCHEDULE, num_steps, **how).start, SCHEDULE, num_steps)
    return (back - X0).abs().max().item()


def smooth(x: torch.Tensor, t: int, frames: slice = slice(None)) -> torch.Tensor:
    return torch.tanh(x) * (0.3 + t / 2000) + DRIFT[:, frames] * 0.1


def test_a_constant_prediction_is_inverted_exactly() -> None:
    assert round_trip(lambda x, t: DRIFT, 10) < 1e-9


def test_so_is_one_that_depends_on_time_alone() -> None:
    """Exact only because the model is asked at the destination's timestep."""
    assert round_trip(lambda x, t: DRIFT * math.sin(t), 10) < 1e-9


def test_inversion_starts_from_the_level_that_ddim_ends_at() -> None:
    """With the level of timestep 0 behind the last step the way back is the way there, and the first state of
    noise is another than that of a clip taken for clean."""
    short = Schedule(ddim_ends_clean=False)
    denoiser = told(lambda x, t: DRIFT)
    there = ddim_invert(denoiser, X0, short, 10)
    torch.testing.assert_close(solve(denoiser, there.start, short, 10), X0)
    first, clean = (levels(short, [1])[i] for i in (0, 1))
    want = first.alpha * (X0 - clean.sigma * DRIFT) / clean.alpha + first.sigma * DRIFT
    torch.testing.assert_close(there.states[-2], want)
    assert not torch.allclose(there.states[-2], ddim_invert(denoiser, X0, SCHEDULE, 10).states[-2])


def test_otherwise_the_error_falls_with_the_steps_and_with_fixed_point_steps() -> None:
    errors = [round_trip(smooth, n) for n in (10, 50, 250)]
    assert errors[0] > errors[1] > errors[2]
    again = [round_trip(smooth, 10, fixed_point_steps=k) for k in (0, 1, 3)]
    assert again[0] > again[1] > again[2]


def test_the_trajectory_runs_from_noise_to_clip() -> None:
    states = ddim_invert(told(smooth), X0, SCHEDULE, 7).states
    assert len(states) == 8
    assert states[-1] is X0


def test_numbers_that_are_not_finite_are_named() -> None:
    with pytest.raises(ValueError, match="not finite at timestep"):
        ddim_invert(told(lambda x, t: x * float("nan")), X0, SCHEDULE, 5)


def predict(scale: float, frames: slice = slice(None)):
    """Guided prediction whose unconditional half is the conditional one where the null embedding's mean is
    .2."""

    def at(x: torch.Tensor, t: int, null: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        level = levels(SCHEDULE, [t])[0]
        u, c = smooth(x, t, frames) * (0.8 + null.mean()), smooth(x, t, frames)
        e = u + scale * (c - u)
        return (x - level.sigma * e) / level.alpha, e

    return at


NULL = torch.zeros(1, 3, 2, dtype=torch.float64)


def test_null_text_brings_guided_sampling_back() -> None:
    trajectory = ddim_invert(told(smooth), X0, SCHEDULE, 10)
    found = null_text(
        predict(4.0),
        trajectory,
        SCHEDULE,
        NULL,
        NullText(lr=0.05, inner_steps=40, epsilon=0.0, epsilon_per_step=0.0, keep_best=True),
    )
    assert all(last <= first for first, last in found.losses)
    assert found.losses[0][1] < 0.1 * found.losses[0][0]
    x, plain = trajectory.start, trajectory.start
    for i, t in enumerate(timesteps(SCHEDULE, 10, Solver.DDIM)):
        then = levels(SCHEDULE, timesteps(SCHEDULE, 10, Solver.DDIM))[i + 1]
        x, plain = (
            then.alpha * a + then.sigma * b
            for a, b in (predict(4.0)(x, t, found.values[i], i), predict(4.0)(plain, t, NULL, i))
        )
    assert (x - X0).abs().mean() < 0.5 * (plain - X0).abs().mean()


def test_without_guidance_the_null_embedding_has_no_gradient() -> None:
    tokens = NULL.clone().requires_grad_(True)
    out, _ = predict(1.0)(X0, 500, tokens, 0)
    assert torch.autograd.grad(out.sum(), tokens)[0].abs().max() < 1e-12


def test_an_embedding_shared_by_frames_gets_the_gradient_of_all() -> None:
    """The first inner loss is the mean over a clip's frames, and so its gradient is the mean of what the
    frames alone would give it."""

    def first_loss(frames: slice) -> tuple[float, torch.Tensor]:
        """Of null-text optimisation in one step on these frames, with the gradient that the embedding got."""
        seen: list[torch.Tensor] = []

        def watched(
            x: torch.Tensor, t: int, null: torch.Tensor, step: int
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if null.requires_grad:
                null.register_hook(lambda g: seen.append(g.clone()))
            return predict(4.0, frames)(x, t, null, step)

        states = tuple(state[:, frames] for state in trajectory.states)
        settings = NullText(inner_steps=1, epsilon=0.0, epsilon_per_step=0.0)
        found = null_text(watched, Trajectory(states), SCHEDULE, NULL, settings)
        return found.losses[0][0], seen[0]

    trajectory = ddim_invert(told(smooth), X0, SCHEDULE, 1)
    losses, gradients = zip(*(first_loss(slice(i, i + 1)) for i in range(X0.shape[1])), strict=True)
    loss, gradient = first_loss(slice(None))
    assert loss == pytest.approx(sum(losses) / len(losses))
    assert not torch.allclose(gradients[0], gradients[1])
    torch.testing.assert_close(gradient, sum(gradients) / len(gradients))


def test_a_looser_stop_never_takes_more_steps() -> None:
    trajectory = ddim_invert(told(smooth), X0, SCHEDULE, 5)
    asked = []
    for epsilon in (0.0, 1e-4, 1e9):
        count = 0

        def counting(*args):
            nonlocal count
            count += 1
            return predict(4.0)(*args)

        null_text(counting, trajectory, SCHEDULE, NULL, NullText(epsilon=epsilon))
        asked.append(count)
    assert asked[0] >= asked[1] >= asked[2]
    assert asked[0] == (10 + 1) * 5, "so many inner steps, and the step itself"
    assert asked[2] == 2 * 5


def test_the_released_optimisation_takes_its_step_before_it_looks() -> None:
    """A first loss that is low enough: the last embedding is one step of Adam away, lr in every number; the
    best is the one it started from."""
    trajectory = ddim_invert(told(smooth), X0, SCHEDULE, 1)
    last, best = (
        null_text(predict(4.0), trajectory, SCHEDULE, NULL, NullText(epsilon=1e9, lr=0.01, keep_best=best))
        for best in (False, True)
    )
    torch.testing.assert_close((last.values[0] - NULL).abs(), torch.full_like(NULL, 0.01))
    assert torch.equal(best.values[0], NULL)
    assert best.losses[0][0] == best.losses[0][1] == last.losses[0][0] != last.losses[0][1]


def test_a_part_of_the_steps_may_stay_as_it_is() -> None:
    trajectory = ddim_invert(told(smooth), X0, SCHEDULE, 10)
    found = null_text(predict(4.0), trajectory, SCHEDULE, NULL, NullText(active=0.5))
    assert all(math.isnan(first) for first, _ in found.losses[5:])
    assert torch.equal(found.values[9], found.values[4])


def test_hooks_at_three_positions() -> None:
    seen = []
    hooks = StepHooks(
        before=(lambda i, x: seen.append(("before", i)) or x,),
        on_sample=(lambda i, x: seen.append(("x0", i)) or X0,),
        after=(lambda i, x: seen.append(("after", i)) or x,),
    )
    out = solve(told(smooth), X0.clone(), SCHEDULE, 2, hooks=hooks)
    assert seen == [(name, i) for i in range(2) for name in ("before", "x0", "after")]
    torch.testing.assert_close(out, X0), "the last step returns the replaced prediction"


def test_q_sample_starts_where_its_strength_says() -> None:
    assert noised(X0, DRIFT, SCHEDULE, 20, 0.0) == (20, X0)
    first, x = noised(X0, DRIFT, SCHEDULE, 20, 0.5)
    assert first == 10
    exact = told(lambda x, t: DRIFT)
    torch.testing.assert_close(solve(exact, x, SCHEDULE, 20, first_step=first), X0)
    with pytest.raises(ValueError, match=r"strength must lie in 0\.\.1"):
        noised(X0, DRIFT, SCHEDULE, 20, 1.5)


def test_guidance_values() -> None:
    outs = torch.randn(2, 2, 3)
    torch.testing.assert_close(Cfg(scale=3.0).combine(outs), outs[0] + 3 * (outs[1] - outs[0]))
    fast = Cfg(scale=3.0, conditional_only=1).combine(outs)
    torch.testing.assert_close(fast[0], outs[1, 0])
    torch.testing.assert_close(fast[1], Cfg(scale=3.0).combine(outs)[1])
    assert Cfg(scale=1.0).rows() == ("text",)
    three = torch.randn(3, 2, 3)
    torch.testing.assert_close(Dual(text=1.0, image=1.0).combine(three), three[2])
    torch.testing.assert_close(Dual(text=4.0, image=1.0).combine(three), Cfg(scale=4.0).combine(three[1:]))
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="guidance must be a number that is not negative"):
            Cfg(scale=wrong)
        with pytest.raises(ValueError, match="guidance must be a number that is not negative"):
            Dual(image=wrong)
