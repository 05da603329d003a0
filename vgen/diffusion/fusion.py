"""What keeps a key frame to those before it while it is drawn: their shapes, their statistics, their pixels
(Yang et al. 2023, Rerender A Video, section 4.1). Every class is a hook of the solver's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.diffusion.solvers import Level
from vgen.diffusion.step_window import StepWindow

EPSILON = 1e-5
LOST = 0.25
"""Mean difference of a pixel in [-1, 1] from which on a place is lost to the encoder."""


@dataclass(slots=True)
class Samples:
    """Keeps the predicted samples of a run, by step."""

    kept: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, step: int, x0: Tensor) -> Tensor:
        self.kept[step] = x0
        return x0


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleFusion:
    """AdaIN: the statistics of each channel are those of ``first`` at the same step (Huang and Belongie 2017,
    equation 8). As released, it divides by the biased deviation and multiplies by the unbiased one."""

    first: Samples
    window: StepWindow
    num_steps: int

    def __call__(self, step: int, x0: Tensor) -> Tensor:
        """``x0`` r f c h w."""
        if not self.window.holds(step, self.num_steps):
            return x0
        like = self.first.kept[step]
        spread = (like.flatten(-2).var(-1) + EPSILON).sqrt()[..., None, None]
        plain = F.instance_norm(x0.flatten(0, 1), eps=EPSILON).unflatten(0, x0.shape[:2])
        return plain * spread + like.mean((-2, -1), keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeFusion:
    """Where ``seen`` (1 1 h w, 1 or less), the sample of ``first`` at the same step, carried here by
    ``carried``."""

    first: Samples
    carried: Callable[[Tensor], Tensor]
    seen: Tensor
    window: StepWindow
    num_steps: int

    def __call__(self, step: int, x0: Tensor) -> Tensor:
        """``x0`` r f c h w."""
        if not self.window.holds(step, self.num_steps):
            return x0
        return torch.lerp(x0, self.carried(self.first.kept[step]), self.seen)


@dataclass(slots=True, kw_only=True)
class PixelFusion:
    """Before a step, ``weight`` (1 1 h w) of the latent is ``composite``, noised to the step's level.

    The part of the latent that is its direction, noise that the step before added, is made louder in
    ``flat`` (1 1 h w, 1 or 0) to keep its variance, by ``inner`` of what that takes. ``levels`` are those of
    the steps, ``noise`` gives what a step's noise is.
    """

    composite: Tensor
    weight: Tensor
    flat: Tensor
    inner: float
    levels: list[Level]
    noise: Callable[[int], Tensor]
    window: StepWindow
    num_steps: int
    _sample: Tensor | None = None

    def on_sample(self, step: int, x0: Tensor) -> Tensor:
        self._sample = x0
        return x0

    def before(self, step: int, x: Tensor) -> Tensor:
        """``x`` r f c h w."""
        if not self.window.holds(step, self.num_steps):
            return x
        level, own = self.levels[step], 1 - self.weight
        noised = level.alpha * self.composite + level.sigma * self.noise(step)
        direction = torch.zeros_like(x) if self._sample is None else x - level.alpha * self._sample
        loud = torch.maximum(own, self.inner * (1 - self.weight**2).sqrt())
        loud = torch.lerp(own, loud, self.flat)
        return noised * self.weight + own * (x - direction) + loud * direction


def flat_places(mask: Tensor) -> Tensor:
    """b 1 h w, 1 where a mask b 1 h w does not change over the cells around."""
    across = torch.tensor([[-1.0, 0, 1]] * 3).to(mask)[None, None]
    padded = F.pad(mask, [1] * 4, mode="replicate")
    change = F.conv2d(padded, across).abs() + F.conv2d(padded, across.mT).abs()
    return (change == 0).to(mask)


def faithful(
    pixels: Tensor, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Latents f c h w of ``pixels`` f 3 H W to which what the encoder loses in one round is added (section
    4.1.2, fidelity-oriented encoding), but where the decoder would make that worse."""
    once = encode(pixels)
    lost = once - encode(decode(once))
    wrong = (decode(once + lost) - pixels).abs().mean(1, keepdim=True) > LOST
    cells = F.interpolate(wrong.to(pixels), once.shape[-2:], mode="bilinear") > 0
    keep = F.max_pool2d(cells.to(once), 3, stride=1, padding=1)
    return once + (1 - keep) * lost
