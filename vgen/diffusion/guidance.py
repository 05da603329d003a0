"""What a row of a batch drops: at random in training, by branches of guidance in sampling.

Absence composes where presence does not: a condition added to any method stays on in every branch, and nobody
edits sets elsewhere. What is dropped speaks its null.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vgen.spec import field, spec

Dropped = frozenset[str]
"""Names of the conditions that a row does not hear."""
TEXT, IMAGE, POSE, TIME, CONTEXT = "text", "image", "pose", "time", "context"
"""Names that guidance knows; a row that drops ``time`` sees its frames as stills."""
NOTHING: Dropped = frozenset()


def check_scale(scale: float) -> None:
    """Raises ValueError for a scale of guidance that means nothing."""
    if not 0 <= scale < math.inf:
        raise ValueError(
            f"guidance must be a number that is not negative, got {scale}; 1 turns it off, 7.5 is usual"
        )


@dataclass(frozen=True, slots=True)
class Drop:
    """A share of the training clips, and what they do not hear."""

    share: float
    dropped: Dropped


def drawn(drops: Sequence[Drop], uniform: Sequence[float]) -> list[Dropped]:
    """What each clip drops, by one number in (0, 1) each: the shares lie end to end from 0 on."""
    out = []
    for number in uniform:
        edge, found = 0.0, NOTHING
        for drop in drops:
            if edge <= number < edge + drop.share:
                found = drop.dropped
            edge += drop.share
        out.append(found)
    return out


@dataclass(frozen=True, slots=True)
class Branch:
    """One row of a guided prediction: what it drops, and the scale of its difference to the row before it."""

    name: str
    dropped: Dropped = NOTHING
    scale: float = 1.0


class Guidance(ABC):
    """The first branch, and each later one's difference to the one before, times a scale.

    It works on any prediction that is affine in the noise at fixed x_t: epsilon, v and x_0 alike.
    """

    __slots__ = ()

    @abstractmethod
    def branches(self) -> tuple[Branch, ...]:
        """In the order in which ``combine`` gets them; the last one, which drops least, is called
        ``text``."""

    def unguided(self) -> int:
        """How many rows, from the first, keep the last branch alone."""
        return 0

    def rows(self) -> tuple[str, ...]:
        """Names of the branches."""
        return tuple(branch.name for branch in self.branches())

    def combine(self, outs: Tensor) -> Tensor:
        """``g r ...`` to ``r ...``."""
        total, alone = outs[0], self.unguided()
        for i, branch in enumerate(self.branches()[1:], 1):
            weight = outs.new_full((outs.shape[1], *[1] * (outs.ndim - 2)), branch.scale)
            weight[:alone] = 1
            total = total + weight * (outs[i] - outs[i - 1])
        return total


@spec
class Cfg(Guidance):
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6): u + w (c - u). The first ``conditional_only``
    rows keep c alone (Video-P2P's fast mode: the source row needs no guidance to be reconstructed)."""

    scale: float = 7.5
    conditional_only: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def branches(self) -> tuple[Branch, ...]:
        if self.scale == 1:
            return (Branch("text"),)
        return Branch("null", frozenset({TEXT})), Branch("text", scale=self.scale)

    def unguided(self) -> int:
        return self.conditional_only


@spec
class Dual(Guidance):
    """Image and text guidance (InstructPix2Pix, Brooks et al. 2023, eq. 3): e(0,0) + s_I (e(0,I) - e(0,0)) +
    s_T (e(T,I) - e(0,I)). ``beside`` names the condition that stands in the image's place."""

    text: float = 7.5
    image: float = 1.5
    beside: str = IMAGE

    def __post_init__(self) -> None:
        check_scale(self.text)
        check_scale(self.image)

    def branches(self) -> tuple[Branch, ...]:
        return (
            Branch("null", frozenset({TEXT, self.beside})),
            Branch(self.beside, frozenset({TEXT}), self.image),
            Branch("text", scale=self.text),
        )


@spec
class Nested(Guidance):
    """Conditions that come in one after the other, each with a scale of its own: e(nothing) + s_1 (e(c_1) -
    e(nothing)) + s_2 (e(c_1, c_2) - e(c_1)) + ... ``conditions`` and ``scales`` are in this order."""

    conditions: list[str] = field(default_factory=lambda: [IMAGE, TEXT])
    scales: list[float] = field(default_factory=lambda: [1.5, 7.5])

    def __post_init__(self) -> None:
        if len(self.scales) != len(self.conditions) or not self.scales:
            raise ValueError(
                f"nested guidance needs a scale for each of {', '.join(self.conditions)}, got {self.scales}"
            )
        for scale in self.scales:
            check_scale(scale)

    def branches(self) -> tuple[Branch, ...]:
        out = [Branch("null", frozenset(self.conditions))]
        for i, (name, scale) in enumerate(zip(self.conditions, self.scales, strict=True), 1):
            called = TEXT if i == len(self.conditions) else name
            out.append(Branch(called, frozenset(self.conditions[i:]), scale))
        return tuple(out)
