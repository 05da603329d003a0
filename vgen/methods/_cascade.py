"""How a model goes on from a clip that another one drew: behind its end, between its frames, with more
pixels (Singer et al. 2022, Make-A-Video, figure 2; Blattmann et al. 2023, Align your Latents, section
3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vgen.conditions.context_frames import CLEAN, GIVEN, GivenFrames, WhichFrames
from vgen.conditions.low_resolution import LOW, enlarged_latents


class StageDraw(Protocol):
    """Draws latents b f c h w of ``num_frames``, told ``fields``; another ``part`` has other noise."""

    def __call__(self, fields: Mapping[str, Tensor], num_frames: int, part: str) -> Tensor: ...


class Follows(ABC):
    """What a stage of a cascade makes of the latents ``before`` it, b f c h w."""

    @property
    def speed(self) -> int:
        """How many times as many frames a second come out."""
        return 1

    @property
    def enlargement(self) -> int:
        """How many times as long each side of the pictures becomes."""
        return 1

    @property
    def alone(self) -> bool:
        """Whether its model also draws where no clip was drawn before."""
        return True

    @abstractmethod
    def frames(self, num_before: int, wanted: int, at_once: int) -> int:
        """How many frames come out; ``wanted`` 0 is what the stage gives by itself, ``at_once`` what it draws
        in one go. Raises ValueError where it can't."""

    def num_draws(self, num_before: int, wanted: int, at_once: int) -> int:
        """How often ``draw`` of :meth:`drawn` is called."""
        return 1

    @abstractmethod
    def drawn(self, draw: StageDraw, before: Tensor, wanted: int, at_once: int) -> Tensor:
        """Latents b f c h w."""


@dataclass(frozen=True, slots=True)
class GoesOn(Follows):
    """Draws on from the last ``most`` frames, ``at_once`` frames with them, again and again."""

    most: int

    def frames(self, num_before: int, wanted: int, at_once: int) -> int:
        if wanted and wanted < num_before:
            raise ValueError(
                f"a stage goes on from {num_before} frames and is to end with {wanted}; ask for more "
                "frames, or "
                "leave the stage out"
            )
        if at_once <= self.most:
            raise ValueError(
                f"a stage that goes on from {self.most} frames draws {at_once} at once, which leaves none "
                "to draw; "
                f"set its sampling.num_frames to {self.most + 1} or more"
            )
        return wanted or num_before + at_once - min(self.most, num_before)

    def num_draws(self, num_before: int, wanted: int, at_once: int) -> int:
        there, total, draws = num_before, self.frames(num_before, wanted, at_once), 0
        while there < total:
            there += at_once - min(self.most, there)
            draws += 1
        return draws

    def drawn(self, draw: StageDraw, before: Tensor, wanted: int, at_once: int) -> Tensor:
        clip, total = before, self.frames(before.shape[1], wanted, at_once)
        number = 0
        while clip.shape[1] < total:
            shown = clip[:, -self.most :]
            clean = before.new_zeros(len(before), at_once, *before.shape[2:])
            clean[:, : shown.shape[1]] = shown
            given = torch.arange(at_once, device=before.device) < shown.shape[1]
            fields = {CLEAN: clean, GIVEN: given.expand(len(before), -1)}
            out = draw(fields, at_once, f"on/{number}")
            clip = torch.cat([clip, out[:, shown.shape[1] :]], 1)
            number += 1
        return clip[:, :total]


@dataclass(frozen=True, slots=True)
class FillsBetween(Follows):
    """Draws ``factor`` - 1 frames between every two, a pair at a time."""

    factor: int

    @property
    def speed(self) -> int:
        return self.factor

    def frames(self, num_before: int, wanted: int, at_once: int) -> int:
        out = (num_before - 1) * self.factor + 1
        if num_before == 1 or wanted not in (0, out):
            raise ValueError(
                f"a stage that draws {self.factor - 1} frames between every two makes {out} of "
                f"{num_before}, got "
                f"num_frames={wanted}; leave it at 0, and give the stage before it 2 frames or more"
            )
        return out

    def num_draws(self, num_before: int, wanted: int, at_once: int) -> int:
        return num_before - 1

    def drawn(self, draw: StageDraw, before: Tensor, wanted: int, at_once: int) -> Tensor:
        self.frames(before.shape[1], wanted, at_once)
        parts = [before[:, :1]]
        for number in range(before.shape[1] - 1):
            left, right = before[:, number : number + 1], before[:, number + 1 : number + 2]
            blank = torch.zeros_like(left).repeat(1, self.factor - 1, 1, 1, 1)
            clean = torch.cat([left, blank, right], 1)
            given = torch.arange(self.factor + 1, device=before.device) % self.factor == 0
            fields = {CLEAN: clean, GIVEN: given.expand(len(before), -1)}
            out = draw(fields, self.factor + 1, f"between/{number}")
            parts += [out[:, 1 : self.factor], right]
        return torch.cat(parts, 1)


@dataclass(frozen=True, slots=True)
class Enlarges(Follows):
    """Draws the whole clip again with sides ``factor`` times as long."""

    factor: int

    @property
    def enlargement(self) -> int:
        return self.factor

    @property
    def alone(self) -> bool:
        return False

    def frames(self, num_before: int, wanted: int, at_once: int) -> int:
        if wanted not in (0, num_before):
            raise ValueError(
                f"a stage that enlarges {num_before} frames gives as many, got num_frames={wanted}; leave "
                "it at 0"
            )
        return num_before

    def drawn(self, draw: StageDraw, before: Tensor, wanted: int, at_once: int) -> Tensor:
        frames = self.frames(before.shape[1], wanted, at_once)
        return draw({LOW: enlarged_latents(before, self.factor)}, frames, "larger")


def follows(context: GivenFrames) -> Follows | None:
    """For a model of such given frames; None where it is given none."""
    known: dict[WhichFrames, Follows] = {
        WhichFrames.FIRST: GoesOn(context.most),
        WhichFrames.EVERY: FillsBetween(context.factor),
    }
    return known.get(context.which)
