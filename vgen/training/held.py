"""Weights, moments and averages of what learns, whole and by name, whatever the strategy made of them.

Every rank asks for every tensor, in the same order: where weights lie in parts, to ask is to take part in
gathering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vgen.formats.tensor_file import Entry, Shelf
from vgen.training.moments import KEYS, kind_of, moments_of, put_moments, steps_of
from vgen.training.partitions import gathered, part_of, whole_shape


class Held(Protocol):
    """What a strategy holds of each learning parameter."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of ``configure_optimizers``, with its groups and its schedule."""

    def weight(self, parameter: nn.Parameter) -> Entry:
        """The values that the optimiser steps."""

    def moments(self, parameter: nn.Parameter) -> dict[str, Entry]:
        """What the optimiser remembers."""

    def steps(self, parameter: nn.Parameter) -> int:
        """How often the parameter was stepped."""

    def put_weight(self, parameter: nn.Parameter, value: Tensor) -> None: ...

    def put_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None: ...

    def scale(self) -> dict[str, float] | None:
        """The loss scale of fp16, the steps since it changed, and what else this kind of scaler counts."""

    def put_scale(self, scale: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Whole:
    """One process, or each of several: everything is there."""

    optimizer: torch.optim.Optimizer
    scaler: Any = None

    def weight(self, parameter: nn.Parameter) -> Entry:
        return Entry.of(parameter.detach())

    def moments(self, parameter: nn.Parameter) -> dict[str, Entry]:
        return {key: Entry.of(value) for key, value in moments_of(self.optimizer, parameter).items()}

    def steps(self, parameter: nn.Parameter) -> int:
        return steps_of(self.optimizer, parameter)

    @torch.no_grad()
    def put_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        parameter.copy_(value)

    def put_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None:
        if moments:
            put_moments(self.optimizer, parameter, moments, steps)

    def scale(self) -> dict[str, float] | None:
        if self.scaler is None:
            return None
        state = self.scaler.state_dict()
        return {"scale": state["scale"], "steps_since": state["_growth_tracker"]}

    def put_scale(self, scale: dict[str, float]) -> None:
        if self.scaler is not None:
            now = {"scale": scale["scale"], "_growth_tracker": int(scale["steps_since"])}
            self.scaler.load_state_dict(self.scaler.state_dict() | now)


@dataclass(frozen=True)
class Learning:
    """What learns by name, what a strategy holds of it, and the averages' own parts (none: no average)."""

    parameters: dict[str, nn.Parameter]
    held: Held
    averages: dict[str, Tensor]

    @property
    def kind(self) -> str:
        return kind_of(self.held.optimizer)

    def weights(self) -> Shelf:
        return {name: _finite(name, self.held.weight(p)) for name, p in self.parameters.items()}

    def averaged(self) -> Shelf:
        out = {}
        for name, part in self.averages.items():
            parameter = self.parameters[name]
            entry = Entry(part.dtype, whole_shape(parameter), _gather(parameter, part))
            out[name] = _finite(f"the average of {name}", entry)
        return out

    def moments(self) -> Shelf:
        """``moment.component.parameter``."""
        out = {}
        for name, parameter in self.parameters.items():
            for key, entry in self.held.moments(parameter).items():
                out[f"{key}.{name}"] = _finite(f"{key} of {name}", entry)
        return out

    def steps(self) -> dict[str, int]:
        counts = {name: self.held.steps(p) for name, p in self.parameters.items()}
        return {name: count for name, count in counts.items() if count}

    def put(self, weights: Any, moments: Any, steps: dict[str, int]) -> None:
        """Take over weights and moments from opened safetensors files, one parameter at a time."""
        have = set(moments.keys())
        for name, parameter in self.parameters.items():
            self.held.put_weight(parameter, weights.get_tensor(name))
            keys = [key for key in KEYS if f"{key}.{name}" in have]
            found = {key: moments.get_tensor(f"{key}.{name}") for key in keys}
            self.held.put_moments(parameter, found, steps.get(name, 0))

    def own_parts(self, averages: Any) -> dict[str, Tensor]:
        """The averages of an opened file, of each the part that this rank answers for."""
        kept = set(averages.keys())
        averaged = {name: p for name, p in self.parameters.items() if name in kept}
        return {name: part_of(p, averages.get_tensor(name)) for name, p in averaged.items()}


def _gather(parameter: nn.Parameter, part: Tensor) -> Callable[[], Tensor]:
    return lambda: gathered(parameter, part)


def _finite(name: str, entry: Entry) -> Entry:
    """The same, refused where a value is not finite: by every rank, at the same tensor."""

    def fetch() -> Tensor:
        value = entry.fetch()
        refuse_infinite(name, value)
        return value

    return Entry(entry.dtype, entry.shape, fetch)


class Diverged(ValueError):
    """What learns is no longer finite."""


def refuse_infinite(name: str, value: Tensor) -> None:
    if value.numel() == 0:
        return
    least, most = value.aminmax()  # one pass without a mask; both are NaN where any value is
    if not (torch.isfinite(least) and torch.isfinite(most)):
        raise Diverged(f"{name} is not finite")
