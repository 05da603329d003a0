"""Noise schedules as values, and the conversions between noise, clean sample and velocity.

x_t = alpha_t x_0 + sigma_t eps with alpha^2 + sigma^2 = 1 (Ho et al. 2020, eq. 4); v = alpha eps - sigma x_0
(Salimans & Ho 2022, app. D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vgen.spec import Choice, spec


class Betas(Choice):
    """Names as in diffusers; LDM and ComfyUI call ``scaled_linear`` "linear" and ``linear`` "sqrt_linear"."""

    LINEAR = "linear"
    SCALED_LINEAR = "scaled_linear"


class Prediction(Choice):
    """What a model's raw output means."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"


@spec
class Schedule:
    """A discrete variance-preserving schedule. ``ddim_ends_clean`` says what lies behind DDIM's last step:
    the clean sample, or, where it is false, the level of timestep 0 (diffusers' ``set_alpha_to_one``). Other
    solvers end at the clean sample always."""

    betas: Betas = Betas.SCALED_LINEAR
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000
    ddim_ends_clean: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"schedule needs 0 < beta_start <= beta_end < 1, got {self.beta_start} and {self.beta_end}"
            )
        if self.num_timesteps < 2:
            raise ValueError(f"schedule needs at least 2 timesteps, got {self.num_timesteps}")

    def alphas_cumprod(self) -> Tensor:
        """alpha_t squared for t = 0 .. T-1, float64."""
        power = 1.0 if self.betas is Betas.LINEAR else 0.5
        betas = torch.linspace(
            self.beta_start**power, self.beta_end**power, self.num_timesteps, dtype=torch.float64
        ) ** (1 / power)
        return torch.cumprod(1 - betas, 0)

    def alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t for integer ``t`` b, shaped to broadcast over ``like``."""
        squared = self.alphas_cumprod().to(t.device)[t].view(-1, *[1] * (like.ndim - 1))
        return squared.sqrt().to(like.dtype), (1 - squared).sqrt().to(like.dtype)


def shifted(t: Tensor, shift: float, num_timesteps: int) -> Tensor:
    """Uniform integers ``t`` moved to the noisy end (``shift`` > 1): s u / (1 + (s - 1) u) of u = (t + 1/2) /
    T, rounded down (Esser et al. 2024, eq. 23). 1 leaves them as they are; at 3, 56 in 100 lie above .7 T."""
    u = (t.double() + 0.5) / num_timesteps
    return (shift * u / (1 + (shift - 1) * u) * num_timesteps).long()


def schedule_of(config: dict[str, Any]) -> Schedule:
    """The schedule of a diffusers ``scheduler_config.json``."""
    kind = config.get("beta_schedule", "linear")
    if kind not in [b.value for b in Betas] or config.get("trained_betas") is not None:
        told = "trained_betas" if kind in [b.value for b in Betas] else f"beta_schedule {kind!r}"
        raise ValueError(
            f"scheduler has {told}; vgen reads beta_schedule {' and '.join(b.value for b in Betas)} without "
            "trained_betas"
        )
    num_timesteps = config.get("num_train_timesteps", 1000)
    return Schedule(
        betas=Betas(kind),
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        num_timesteps=num_timesteps,
        ddim_ends_clean=config.get("set_alpha_to_one", True),
    )


def prediction_of(config: dict[str, Any]) -> Prediction:
    """What a model's output means, according to a diffusers ``scheduler_config.json``."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in [p.value for p in Prediction]:
        raise ValueError(
            f"scheduler has prediction_type {kind!r}; vgen reads {', '.join(p.value for p in Prediction)}"
        )
    return Prediction(kind)


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha * x0 + sigma * noise


def target(prediction: Prediction, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the raw output should be."""
    match prediction:
        case Prediction.EPSILON:
            return noise
        case Prediction.V:
            return alpha * noise - sigma * x0
        case Prediction.SAMPLE:
            return x0


def to_sample_and_noise(
    prediction: Prediction, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw output to (x_0, eps); the inverse of :func:`target`."""
    match prediction:
        case Prediction.EPSILON:
            return (x_t - sigma * out) / alpha, out
        case Prediction.V:
            return alpha * x_t - sigma * out, sigma * x_t + alpha * out
        case Prediction.SAMPLE:
            return out, (x_t - alpha * out) / sigma
