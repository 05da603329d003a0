"""From a real clip to the noise that gives it back: DDIM run backwards, and null-text optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.diffusion.schedule import Schedule
from vgen.diffusion.solvers import CLEAN, Denoiser, Level, Solver, Spacing, levels, timesteps
from vgen.spec import spec


@dataclass(frozen=True, slots=True)
class Trajectory:
    """``states[i]`` is the latent before denoising step i, so ``states[0]`` is the start noise and
    ``states[-1]`` the clean latent."""

    states: tuple[Tensor, ...]

    @property
    def start(self) -> Tensor:
        return self.states[0]


@torch.no_grad()
def ddim_invert(
    denoiser: Denoiser,
    x0: Tensor,
    schedule: Schedule,
    num_steps: int,
    spacing: Spacing = Spacing.AUTO,
    fixed_point_steps: int = 0,
) -> Trajectory:
    """Song et al. 2021, eq. 13 backwards: the latent of each level is moved to the next noisier one by the
    noise predicted there; the clip itself is taken for the level behind DDIM's last step.

    The model is asked at the *destination's* timestep, so that a prediction that depends on t alone is
    inverted exactly. As it has not seen the destination's latent yet, it gets the one it comes from; each of
    ``fixed_point_steps`` asks again with the destination just found (Pan et al. 2023, AIDI, section 4.1), at
    the price of one more evaluation per step.
    """
    ts = timesteps(schedule, num_steps, Solver.DDIM, spacing)
    grid = levels(schedule, ts)
    states = [x0]
    for i in reversed(range(num_steps)):
        here, there = grid[i + 1], grid[i]
        x = states[-1]
        guess = x
        for _ in range(1 + fixed_point_steps):
            _, eps = denoiser(guess, ts[i])
            clean = x if here is CLEAN else (x - here.sigma * eps) / here.alpha
            guess = there.alpha * clean + there.sigma * eps
        if not torch.isfinite(guess).all():
            raise ValueError(
                f"inversion met numbers that are not finite at timestep {ts[i]}; "
                "check the clip and the checkpoint, and use a model in float32 if it is in half precision"
            )
        states.append(guess)
    return Trajectory(tuple(reversed(states)))


@spec
class NullText:
    """Mokady et al. 2022, section 4 with the released code's numbers: ``inner_steps`` of Adam on one
    unconditional embedding per step, the last where the loss was below ``epsilon + step *
    epsilon_per_step``; ``active`` is the share of the steps, from the start, that are optimised.
    ``keep_best`` is ours: the embedding of the lowest loss instead of the last one, and no step of Adam where
    the loss is low enough already."""

    inner_steps: int = 10
    lr: float = 1e-2
    epsilon: float = 1e-5
    epsilon_per_step: float = 2e-5
    active: float = 1.0
    keep_best: bool = False

    def __post_init__(self) -> None:
        if self.inner_steps < 0 or self.lr <= 0 or not 0 <= self.active <= 1:
            raise ValueError(
                f"null-text needs inner_steps >= 0, lr > 0 and active in 0..1, got {self.inner_steps}, "
                f"{self.lr} and {self.active}"
            )


@dataclass(frozen=True, slots=True)
class NullEmbeddings:
    """One unconditional embedding per step, and the loss before and after its optimisation."""

    values: tuple[Tensor, ...]
    losses: tuple[tuple[float, float], ...]


def null_text(
    predict: Callable[[Tensor, int, Tensor, int], tuple[Tensor, Tensor]],
    trajectory: Trajectory,
    schedule: Schedule,
    null: Tensor,
    settings: NullText,
    spacing: Spacing = Spacing.AUTO,
    on_step: Callable[[], None] = lambda: None,
) -> NullEmbeddings:
    """Make guided sampling follow ``trajectory``. ``predict(x, t, null, step)`` gives guided (x_0, eps) for
    unconditional tokens ``null``, through which gradients flow; ``null`` is the embedding to start from,
    shared by all frames where it has one row."""
    num_steps = len(trajectory.states) - 1
    ts = timesteps(schedule, num_steps, Solver.DDIM, spacing)
    grid = levels(schedule, ts)
    x, value = trajectory.start, null.detach().clone()
    values, losses = [], []
    for i, t in enumerate(ts):
        want, then = trajectory.states[i + 1], grid[i + 1]

        def stepped(tokens: Tensor, x: Tensor = x, t: int = t, i: int = i, then: Level = then) -> Tensor:
            x0, eps = predict(x, t, tokens, i)
            return then.alpha * x0 + then.sigma * eps

        first, optimised = math.nan, i < math.ceil(settings.active * num_steps)
        if optimised:
            value, first = _optimised(stepped, want, value, settings, i, num_steps)
        with torch.no_grad():
            x = stepped(value)
        values.append(value)
        losses.append((first, F.mse_loss(x, want).item() if optimised else math.nan))
        on_step()
    return NullEmbeddings(tuple(values), tuple(losses))


def _optimised(
    stepped: Callable[[Tensor], Tensor],
    want: Tensor,
    value: Tensor,
    settings: NullText,
    step: int,
    num_steps: int,
) -> tuple[Tensor, float]:
    """The embedding, and the loss of the one it started from."""
    tokens = value.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam(
        [tokens], lr=settings.lr * (1 - step / (2 * num_steps))
    )  # the released 1 - i/100 of its 50 steps
    enough = settings.epsilon + step * settings.epsilon_per_step
    best, lowest, first = value, math.inf, math.nan
    with torch.enable_grad():
        for inner in range(settings.inner_steps + settings.keep_best):
            loss = F.mse_loss(stepped(tokens), want)
            found = loss.item()
            first = found if inner == 0 else first
            if found < lowest:
                best, lowest = tokens.detach().clone(), found
            if settings.keep_best and (found < enough or inner == settings.inner_steps):
                break
            (tokens.grad,) = torch.autograd.grad(loss, [tokens])
            optimiser.step()
            if found < enough:
                break
    return (best if settings.keep_best else tokens.detach()), first


@torch.no_grad()
def noised(
    x0: Tensor,
    noise: Tensor,
    schedule: Schedule,
    num_steps: int,
    strength: float,
    spacing: Spacing = Spacing.AUTO,
) -> tuple[int, Tensor]:
    """q-sample: the clip noised to ``strength`` (0 nothing, 1 everything); returns the first step to denoise
    and the latent there (Meng et al. 2021)."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in 0..1, got {strength}; 1 starts from noise alone")
    first = num_steps - round(strength * num_steps)
    if first == num_steps:
        return first, x0
    level = levels(schedule, timesteps(schedule, num_steps, Solver.DDIM, spacing))[first]
    return first, level.alpha * x0 + level.sigma * noise
