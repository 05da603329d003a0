"""What a method listens to: a condition reads fields of a batch and says what the nets are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.frames import Frames, frames_of
from vgen.diffusion.moment import Moment

Fields = Mapping[str, Any]
"""Of a batch, by name: lists of captions, tensors with one row per clip."""


WEIGHT = "weight"
"""What a condition that can be made louder and softer calls its strength in each row."""


def revealed(field: str) -> str:
    """The name of the field, b f bool, that says which frames of another one count, where not all of them
    do."""
    return f"{field}_revealed"


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a condition made of its fields, one row per clip.

    ``clip`` holds tensors ``b ...``, ``frames`` tensors ``b f ...``. ``null`` holds, under the same names,
    what is said in a row that drops the condition, of one row or one per clip, and of one frame or all. A
    name without null stays as it is.
    """

    clip: Mapping[str, Tensor] = field(default_factory=dict)
    frames: Mapping[str, Tensor] = field(default_factory=dict)
    null: Mapping[str, Tensor] = field(default_factory=dict)

    def where(self, keep: Tensor) -> Encoded:
        """Its nulls in the rows where ``keep`` (b, bool) is False."""
        if bool(keep.all()):
            return self

        def chosen(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: _where(keep, x, self.null[name]) if name in self.null else x
                for name, x in values.items()
            }

        return Encoded(chosen(self.clip), chosen(self.frames), self.null)

    def repeated(self, times: int) -> Encoded:
        """All rows, and all again, ``times`` over; a single row is expanded, not copied."""
        return self._each(lambda x: _repeated(x, times), lambda x: x if len(x) == 1 else _repeated(x, times))

    def rows(self, at: Any) -> Encoded:
        """The rows that ``at`` picks."""
        return self._each(lambda x: x[at], lambda x: x if len(x) == 1 else x[at])

    def at(self, frames: Frames) -> Encoded:
        """Of some frames of the clips."""
        cut = {name: frames_of(x, frames) for name, x in self.frames.items()}
        null = {n: frames_of(x, frames) if n in cut and x.shape[1] > 1 else x for n, x in self.null.items()}
        return Encoded(self.clip, cut, null)

    def stills(self, num_frames: int) -> Encoded:
        """Every frame as a clip of one frame."""

        def spread(name: str, x: Tensor) -> Tensor:
            if name not in self.frames:
                return x if len(x) == 1 else x.repeat_interleave(num_frames, 0)
            if x.shape[:2] == (1, 1):
                return x
            rows = len(self.frames[name])
            return x.expand(rows, num_frames, *x.shape[2:]).flatten(0, 1)[:, None]

        clip = {name: x.repeat_interleave(num_frames, 0) for name, x in self.clip.items()}
        frames = {name: x.flatten(0, 1)[:, None] for name, x in self.frames.items()}
        null = {name: spread(name, x) for name, x in self.null.items()}
        return Encoded(clip, frames, null)

    def louder(self, factor: float) -> Encoded:
        """With its ``weight`` (b), which is how loud it is, times ``factor``."""
        return Encoded({**self.clip, WEIGHT: self.clip[WEIGHT] * factor}, self.frames, self.null)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Encoded:
        """On a device; floating numbers in ``dtype``."""

        def moved(x: Tensor) -> Tensor:
            return x.to(device, dtype if x.is_floating_point() else x.dtype)

        return self._each(moved, moved)

    def _each(self, change: Callable[[Tensor], Tensor], of_null: Callable[[Tensor], Tensor]) -> Encoded:
        clip = {name: change(x) for name, x in self.clip.items()}
        frames = {name: change(x) for name, x in self.frames.items()}
        return Encoded(clip, frames, {name: of_null(x) for name, x in self.null.items()})


def _where(keep: Tensor, value: Tensor, null: Tensor) -> Tensor:
    mask = keep.to(value.device).view(-1, *[1] * (value.ndim - 1))
    return torch.where(mask, value, null.to(value))


def _repeated(x: Tensor, times: int) -> Tensor:
    if len(x) == 1:
        return x.expand(times, *x.shape[1:])
    return x.repeat(times, *[1] * (x.ndim - 1))


class Condition(ABC):
    """One thing that a method listens to. It is architecture alone: how loud it speaks is a matter of
    sampling.

    ``prepare`` runs what is frozen, once, without gradient, before anything is dropped; a latent cache keeps
    it. ``encode`` runs what learns. ``conditioning`` speaks at every evaluation.
    """

    __slots__ = ()

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The fields that it needs."""

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """Further fields, from the encoders that are frozen; none that are there already, out of a cache."""
        return Prepared()

    def fingerprint(self, model: ImageModel) -> str:
        """Of what else than the VAE and the text encoders ``prepare`` uses; empty where there is nothing."""
        return ""

    def stands_for(self, other: Condition) -> bool:
        """Whether, in a stack, it takes the place of ``other`` under the same name."""
        return False

    def sparse(self) -> bool:
        """Whether its field may be there for some frames alone."""
        return False

    def louder(self, factor: float) -> Condition:
        """The same, with what it adds to a net's features times ``factor``; itself where it adds nothing."""
        return self

    @abstractmethod
    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        """With gradient where ``module``, or what it uses of the image model, learns."""

    @abstractmethod
    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        """What it adds for rows ``x`` b f c h w at ``t`` b; ``moment`` is None in training, ``so_far`` what
        the conditions before it gave."""
