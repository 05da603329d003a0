"""How the predictions of several conditions become one. A guidance is a value: rows it needs, and a formula
over them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vgen.spec import spec


def check_scale(scale: float) -> None:
    """Raises ValueError for a scale of guidance that means nothing."""
    if not 0 <= scale < math.inf:
        raise ValueError(
            f"guidance must be a number that is not negative, got {scale}; 1 turns it off, 7.5 is usual"
        )


class Guidance(ABC):
    """Works on any prediction that is affine in the noise at fixed x_t: epsilon, v and x_0 alike."""

    @abstractmethod
    def rows(self) -> tuple[str, ...]:
        """Names of the conditions, in the order in which ``combine`` gets them; the full one is called
        ``text``."""

    @abstractmethod
    def combine(self, outs: Tensor) -> Tensor:
        """``g r ...`` to ``r ...``."""


@spec
class Cfg(Guidance):
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): u + w (c - u). The first ``conditional_only``
    branches keep c alone (Video-P2P's fast mode: the source row needs no guidance to be reconstructed)."""

    scale: float = 7.5
    conditional_only: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def rows(self) -> tuple[str, ...]:
        return ("text",) if self.scale == 1 else ("null", "text")

    def combine(self, outs: Tensor) -> Tensor:
        if len(outs) == 1:
            return outs[0]
        null, text = outs
        weight = torch.full(
            (len(text), *[1] * (text.ndim - 1)), self.scale, device=outs.device, dtype=outs.dtype
        )
        weight[: self.conditional_only] = 1
        return null + weight * (text - null)


@spec
class Dual(Guidance):
    """Image and text guidance (InstructPix2Pix, Brooks et al. 2023, eq. 3): e(0,0) + s_I (e(0,I) - e(0,0)) +
    s_T (e(T,I) - e(0,I))."""

    text: float = 7.5
    image: float = 1.5

    def __post_init__(self) -> None:
        check_scale(self.text)
        check_scale(self.image)

    def rows(self) -> tuple[str, ...]:
        return ("null", "image", "text")

    def combine(self, outs: Tensor) -> Tensor:
        null, image, text = outs
        return null + self.image * (image - null) + self.text * (text - image)
