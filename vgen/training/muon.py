"""Muon for matrices and AdamW for the rest, as one optimiser.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn

from vgen.backbones.cpu import matrix_dtype

LEAST_SIDE = 9
"""Matrices with a side shorter than this (the last convolution of a latent UNet) are AdamW's."""
LR_RATIO = 10.0
"""An orthogonal update of n x n has entries of size n^-.5: at ten times AdamW's rate a step on a layer of 100
channels is about as long."""


class StackedMuon(torch.optim.Muon):
    """torch's Muon with matrices of one shape stepped together.

    A UNet has some 130 matrices of 36 shapes, and one by one they are thousands of small kernels a step. Same
    settings, state and result.
    """

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else _with_gradients(closure)
        for group in self.param_groups:
            shapes: dict[tuple, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape), p.device, p.dtype].append(p)
            for alike in shapes.values():
                self._step(alike, group)
        return loss

    def _step(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        for p in alike:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        grads, moments = (
            [p.grad for p in alike if p.grad is not None],
            [self.state[p]["momentum_buffer"] for p in alike],
        )
        torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
        directions = torch._foreach_lerp(grads, moments, group["momentum"]) if group["nesterov"] else moments
        updates = orthogonal(
            torch.stack(directions), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rows, columns = alike[0].shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
        else:
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(alike, list(updates.to(alike[0].dtype)), alpha=-rate)


def _with_gradients(closure: Callable[[], float]) -> float:
    with torch.enable_grad():
        return closure()


def orthogonal(stack: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float) -> Tensor:
    """``n rows columns``: singular values of each matrix brought near one by Newton-Schulz iterations, in
    bfloat16 where the device multiplies fast in it, else in fp32."""
    x = stack.to(matrix_dtype(stack.device))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    a, b, c = coefficients
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def is_matrix(value: Tensor) -> bool:
    """Whether Muon steps it."""
    return value.ndim >= 2 and min(value.shape[0], value[0].numel()) >= LEAST_SIDE


def as_matrix(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """``value`` as out x the rest, in the order in which ``parameter`` lies in memory, so that of the
    parameter itself it is a view."""
    if parameter.ndim == 4 and not parameter.is_contiguous():  # channels last
        value = value.permute(0, 2, 3, 1)
    return value.reshape(len(value), -1)


def as_parameter(matrix: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of :func:`as_matrix`: the values in the shape of ``parameter``; what has it stays."""
    if matrix.shape == parameter.shape:
        return matrix
    if parameter.ndim == 4 and not parameter.is_contiguous():
        out, inner, height, width = parameter.shape
        return matrix.reshape(out, height, width, inner).permute(0, 3, 1, 2)
    return matrix.reshape(parameter.shape)


class MuonAdamW(torch.optim.Optimizer):
    """Convolutions are matrices, out x (in kernel); the two parts share this optimiser's ``param_groups``, so
    one schedule drives both."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float, **adamw: Any) -> None:
        matrices = [p for p in parameters if is_matrix(p)]
        taken = {id(p) for p in matrices}
        self._pairs = [(p, nn.Parameter(as_matrix(p.detach(), p))) for p in matrices]
        flats = [flat for _, flat in self._pairs]
        muon = (
            StackedMuon(flats, lr=lr * LR_RATIO, weight_decay=weight_decay / LR_RATIO) if matrices else None
        )
        rest = [p for p in parameters if id(p) not in taken]
        others = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, **adamw) if rest else None
        self._parts = [part for part in (muon, others) if part]
        super().__init__(
            [{"params": [p]} for p in parameters], {"lr": lr}
        )  # then the parts' own groups, so that schedules reach them
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else _with_gradients(closure)
        for p, flat in self._pairs:
            flat.grad = None if p.grad is None else as_matrix(p.grad, p)
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

    def place_of(self, parameter: nn.Parameter) -> tuple[torch.optim.Optimizer, nn.Parameter]:
        """The part that steps ``parameter``, and what it steps for it."""
        for p, flat in self._pairs:
            if p is parameter:
                return self._parts[0], flat
        return self._parts[-1], parameter

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if len(state_dict.get("parts", ())) != len(self._parts):
            raise ValueError(
                "the checkpoint's optimiser is not muon's; resume with the optim.kind it was written by"
            )
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
