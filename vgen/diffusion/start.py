"""Noise that drawing starts from, and that some solvers add at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from vgen.diffusion.draws import Draws
from vgen.spec import spec


class Start(ABC):
    """How the start noise of the frames of a clip belongs together. Each frame alone is standard normal."""

    __slots__ = ()

    @abstractmethod
    def noise(self, draws: Draws, like: Tensor, purpose: str = "start") -> Tensor:
        """Shape and device of ``like``, b f c h w; other numbers for another ``purpose``."""


@spec
class Iid(Start):
    """Every frame has noise of its own."""

    def noise(self, draws: Draws, like: Tensor, purpose: str = "start") -> Tensor:
        return draws.normal(purpose, like)


@spec
class Shared(Start):
    """All frames have the noise that :class:`Iid` gives the first one."""

    def noise(self, draws: Draws, like: Tensor, purpose: str = "start") -> Tensor:
        return draws.normal(purpose, like[:, :1]).expand_as(like).clone()
