"""What says nothing when it is born."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

Draw = Callable[[Tensor], Tensor]
"""Standard normal numbers in the shape of a tensor."""


class Silent(nn.Module, ABC):
    """A module that says nothing when it is born, since some of its parameters start where they silence
    it."""

    @abstractmethod
    def silent_outputs(self) -> list[nn.Parameter]:
        """The parameters whose values at birth silence it."""

    def perturb(self, draw: Draw) -> None:
        """Makes it heard, so that pre-flight can look behind it; the caller puts the values back."""
        with torch.no_grad():
            for p in self.silent_outputs():
                p.add_(0.02 * draw(p))
