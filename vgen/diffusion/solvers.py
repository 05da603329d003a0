"""From noise to sample: one loop, four step rules. A denoiser is any callable ``(x_t, t) -> (x_0, eps)``.

Levels are (alpha, sigma) with alpha^2 + sigma^2 = 1; in k-diffusion's variables sigma_k = sigma / alpha and
x_k = x / alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vgen.diffusion.schedule import Schedule
from vgen.spec import Choice

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
StepHook = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class StepHooks:
    """Each hook gets the step and may replace what it sees: x_t ``before`` the model is asked, the predicted
    x_0 (``on_sample``; the noise stays, so x_{t-1} follows from both), and x_{t-1} ``after`` the step."""

    before: tuple[StepHook, ...] = ()
    on_sample: tuple[StepHook, ...] = ()
    after: tuple[StepHook, ...] = ()


class Solver(Choice):
    """DDIM (Song et al. 2020, eq. 12, eta 0), Euler and Euler-ancestral (Karras et al. 2022, alg. 1-2 as in
    k-diffusion), DPM-Solver++ 2M (Lu et al. 2022, alg. 2). On one grid of timesteps DDIM and Euler take the
    same step, but for the last where ``Schedule.ddim_ends_clean`` is false; their usual grids differ."""

    DDIM = "ddim"
    EULER = "euler"
    EULER_ANCESTRAL = "euler_ancestral"
    DPM_PP_2M = "dpm++"


class Spacing(Choice):
    """How timesteps are spread (Lin et al. 2024, table 2); ``auto`` is ``leading`` for DDIM and ``trailing``
    for the others, and for DDIM too where ``leading`` would start from noise at less than nine tenths of the
    schedule: under 10 steps, and where the steps do not divide it well, as 600 of 1000."""

    AUTO = "auto"
    LEADING = "leading"
    TRAILING = "trailing"


class Level(NamedTuple):
    alpha: float
    sigma: float

    @property
    def sigma_k(self) -> float:
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        return math.log(self.alpha / self.sigma)


CLEAN = Level(1.0, 0.0)
NOISY = 0.9
"""From which share of the schedule on a model may be shown pure noise."""


def timesteps(
    schedule: Schedule, num_steps: int, solver: Solver, spacing: Spacing = Spacing.AUTO
) -> list[int]:
    """Descending integer timesteps at which the model is asked."""
    total = schedule.num_timesteps
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps must lie in 1..{total}, got {num_steps}")
    leading = [min(i * (total // num_steps) + 1, total - 1) for i in reversed(range(num_steps))]
    usual = solver is Solver.DDIM and leading[0] >= NOISY * total
    if spacing is Spacing.LEADING or (spacing is Spacing.AUTO and usual):
        return leading
    return [round(total - i * total / num_steps) - 1 for i in range(num_steps)]


def levels(schedule: Schedule, ts: Iterable[int], solver: Solver = Solver.DDIM) -> list[Level]:
    """The level of every timestep, and the one behind the last: clean, but for DDIM on a schedule that says
    otherwise (Stable Diffusion's do)."""
    squared = schedule.alphas_cumprod()
    clean = schedule.ddim_ends_clean or solver is not Solver.DDIM
    found = [Level(math.sqrt(squared[t]), math.sqrt(1 - squared[t])) for t in (*ts, *(() if clean else (0,)))]
    return [*found, CLEAN] if clean else found


@torch.no_grad()
def solve(
    denoiser: Denoiser,
    x: Tensor,
    schedule: Schedule,
    num_steps: int,
    solver: Solver = Solver.DDIM,
    spacing: Spacing = Spacing.AUTO,
    noise: Callable[[int], Tensor] | None = None,
    hooks: StepHooks = StepHooks(),
    first_step: int = 0,
) -> Tensor:
    """Run the reverse process from ``x`` (standard normal at the noisiest level) and return x_0 (by DDIM, the
    sample of the schedule's last level).

    ``noise(i)`` gives the fresh noise of step i (Euler-ancestral alone needs it); ``first_step`` begins
    later, with ``x`` at its level.
    """
    ts = timesteps(schedule, num_steps, solver, spacing)
    grid = levels(schedule, ts, solver)
    before: Tensor | None = None
    for i in range(first_step, num_steps):
        for hook in hooks.before:
            x = hook(i, x)
        x0, eps = denoiser(x, ts[i])
        for hook in hooks.on_sample:
            x0 = hook(i, x0)
        now, then = grid[i], grid[i + 1]
        match solver:
            case Solver.DDIM | Solver.EULER:
                x = then.alpha * x0 + then.sigma * eps
            case Solver.EULER_ANCESTRAL:
                x = _ancestral(x0, eps, now, then, i, noise)
            case Solver.DPM_PP_2M:
                x = _dpm_2m(x, x0, before, grid, i)
        before = x0
        for hook in hooks.after:
            x = hook(i, x)
    return x


def _ancestral(
    x0: Tensor, eps: Tensor, now: Level, then: Level, i: int, noise: Callable[[int], Tensor] | None
) -> Tensor:
    """Deterministic step to sigma_down, then fresh noise of sigma_up, so that the level is that of
    ``then``."""
    if then.sigma == 0:
        return x0
    if noise is None:
        raise ValueError("euler_ancestral adds noise at every step and needs a noise source")
    up = min(then.sigma_k, math.sqrt(then.sigma_k**2 * (now.sigma_k**2 - then.sigma_k**2) / now.sigma_k**2))
    down = math.sqrt(then.sigma_k**2 - up**2)
    return then.alpha * (x0 + down * eps + up * noise(i))


def _dpm_2m(x: Tensor, x0: Tensor, before: Tensor | None, grid: list[Level], i: int) -> Tensor:
    now, then = grid[i], grid[i + 1]
    if then.sigma == 0:
        return x0
    h = then.log_snr - now.log_snr
    data = x0
    if before is not None:
        ratio = (now.log_snr - grid[i - 1].log_snr) / h
        data = (1 + 1 / (2 * ratio)) * x0 - before / (2 * ratio)
    return then.sigma / now.sigma * x - then.alpha * math.expm1(-h) * data
