"""Muon for matrices and AdamW for the rest, as one optimiser.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

LEAST_SIDE = 9
"""Matrices with a side shorter than this (the last convolution of a latent UNet) are AdamW's."""
LR_RATIO = 10.0
"""An orthogonal update of n x n has entries of size n^-.5: at ten times AdamW's rate a step on a layer of 100 channels is about as long."""


class MuonAdamW(torch.optim.Optimizer):
    """Convolutions are matrices, out x (in kernel); the two parts share this optimiser's ``param_groups``, so one schedule drives both."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, **adamw: Any) -> None:
        matrices = [p for p in parameters if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= LEAST_SIDE]
        taken = {id(p) for p in matrices}
        self._pairs = [(p, nn.Parameter(p.detach().view(p.shape[0], -1))) for p in matrices]
        flats = [flat for _, flat in self._pairs]
        muon = torch.optim.Muon(flats, lr=lr * LR_RATIO, weight_decay=weight_decay / LR_RATIO) if matrices else None
        rest = [p for p in parameters if id(p) not in taken]
        others = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, **adamw) if rest else None
        self._parts = [part for part in (muon, others) if part]
        super().__init__([{"params": [p]} for p in parameters], {"lr": lr})  # then the parts' own groups, so that schedules reach them
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p, flat in self._pairs:
            flat.grad = None if p.grad is None else p.grad.reshape(flat.shape)
        for part in self._parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p, flat in self._pairs:
            flat.grad = None
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if len(state_dict.get("parts", ())) != len(self._parts):
            raise ValueError("the checkpoint's optimiser is not muon's; resume with the optim.kind it was written by")
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
