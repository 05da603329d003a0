"""The optimiser and its schedule, as values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from vgen.spec import Choice, field, spec
from vgen.training.muon import MuonAdamW


class Decay(Choice):
    """``halves``: half of what it was after each quarter of the run. ``exponential``: by .99 at every
    thousandth of it, down to a 250th."""

    CONSTANT = "constant"
    COSINE = "cosine"
    HALVES = "halves"
    EXPONENTIAL = "exponential"


class Optimiser(Choice):
    """``muon`` is Muon for matrices and convolutions at ten times ``lr``, AdamW for the rest; it needs whole
    weights (no ZeRO, no fp16)."""

    ADAMW = "adamw"
    MUON = "muon"


@spec
class Optimisation:
    """Defaults are those that motion modules were published with (Guo et al. 2023: AdamW, lr 1e-4, weight
    decay 1e-2, clip 1.0)."""

    kind: Optimiser = Optimiser.ADAMW
    lr: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 1e-2
    warmup_steps: int = 0
    decay: Decay = Decay.CONSTANT
    grad_clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr must be positive, got {self.lr}")
        for name in ("eps", "weight_decay", "warmup_steps", "grad_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must not be negative, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"optim.betas are two numbers in [0, 1), got {self.betas}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay lies in [0, 1), got {self.ema_decay}; 0 turns the average off")

    def build(
        self,
        parameters: list[nn.Parameter],
        max_steps: int,
        fused: bool = True,
        factors: Mapping[nn.Parameter, float] | None = None,
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """``factors`` of the rate, of parameters that have another than 1. Raises ValueError where Muon,
        which has a rule of its own for every matrix, is to have any."""
        if factors:
            return self._build(list(self._groups(parameters, factors)), max_steps, fused)
        return self._build(parameters, max_steps, fused)

    def _groups(
        self, parameters: list[nn.Parameter], factors: Mapping[nn.Parameter, float]
    ) -> Iterator[dict[str, Any]]:
        """What learns at one rate together, in the order in which it comes."""
        if self.kind is Optimiser.MUON:
            raise ValueError(
                "optim.kind=muon knows one rate, and this method has several; set optim.kind=adamw"
            )
        for factor in dict.fromkeys(factors.get(p, 1.0) for p in parameters):
            alike = [p for p in parameters if factors.get(p, 1.0) == factor]
            yield {"params": alike, "lr": self.lr * factor}

    def _build(
        self, parameters: list[Any], max_steps: int, fused: bool
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        make = torch.optim.AdamW if self.kind is Optimiser.ADAMW else MuonAdamW
        betas = (self.betas[0], self.betas[1])
        optimiser = make(
            parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )
        return optimiser, torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: self.factor(step, max_steps)
        )

    def factor(self, step: int, max_steps: int) -> float:
        """Share of ``lr`` at an optimiser step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay is Decay.CONSTANT:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        progress = min(1.0, progress)
        match self.decay:
            case Decay.HALVES:
                return 0.5 ** min(3, int(4 * progress))
            case Decay.EXPONENTIAL:
                return max(0.004, 0.99 ** (1000 * progress))
            case _:
                return 0.5 * (1 + math.cos(math.pi * progress))
