"""What an optimiser remembers of a parameter, by name and in the parameter's own shape: the momenta that a
checkpoint keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vgen.training.muon import MuonAdamW, as_matrix, as_parameter
from vgen.training.optimisation import Optimiser

STEP = "step"
ADAM_KEYS = ("exp_avg", "exp_avg_sq")
KEYS = (*ADAM_KEYS, "momentum_buffer")
"""Names of moments in torch's optimisers: those of AdamW, and that of Muon."""


def kind_of(optimiser: torch.optim.Optimizer) -> str:
    return (Optimiser.MUON if isinstance(optimiser, MuonAdamW) else Optimiser.ADAMW).value


def place_of(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser that steps ``parameter``, and what it steps for it: Muon steps a view of a matrix."""
    if not isinstance(optimiser, MuonAdamW):
        return optimiser, parameter
    return optimiser.place_of(parameter)


def moments_of(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Empty where the parameter has not been stepped yet."""
    part, held = place_of(optimiser, parameter)
    found = {key: value for key, value in part.state.get(held, {}).items() if key in KEYS}
    return found if held is parameter else {k: as_parameter(v, parameter) for k, v in found.items()}


def steps_of(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    """How often it was stepped; 0 where the optimiser does not count."""
    part, held = place_of(optimiser, parameter)
    return int(part.state.get(held, {}).get(STEP, 0))


@torch.no_grad()
def put_moments(
    optimiser: torch.optim.Optimizer, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int
) -> None:
    """Set what the optimiser remembers of ``parameter``."""
    part, held = place_of(optimiser, parameter)
    state: dict[str, Tensor] = {}
    for key, value in moments.items():
        given = value if held is parameter else as_matrix(value, parameter)
        state[key] = torch.zeros_like(held).copy_(given)
    if steps:
        state[STEP] = step_count(part, held.device, steps)
    part.state[held] = state


def step_count(optimiser: torch.optim.Optimizer, device: torch.device, steps: int) -> Tensor:
    """A count as AdamW keeps it: on the parameter's device where one kernel does everything."""
    there = bool(optimiser.defaults.get("fused") or optimiser.defaults.get("capturable"))
    return torch.tensor(float(steps), dtype=torch.float32, device=device if there else "cpu")
