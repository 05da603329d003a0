"""Edits of attention maps (Hertz et al. 2022, section 3.2; FateZero, Qi et al. 2023, section 4.2). All act on the conditional row of one branch."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from vgen.attention.control import MapEdit, Maps
from vgen.attention.keys import FrameKeys
from vgen.attention.masks import resized
from vgen.attention.moment import Direction, Moment
from vgen.attention.sites import AttentionKind, AttentionSite
from vgen.attention.store import AttentionStore
from vgen.attention.words import Alignment
from vgen.diffusion.step_window import StepWindow

Source = Callable[[Maps], Tensor]
"""A chunk of the target's maps to the same chunk of the source's, ``f m n k`` (of the conditional row)."""


def sibling(branch: str = "source") -> Source:
    """The source is denoised in the same batch."""
    return lambda maps: maps.values[maps.moment.rows.guidance.index("text"), maps.moment.rows.branch(branch)]


def recorded(store: AttentionStore, keys: Callable[[AttentionSite], FrameKeys | None] = lambda site: None) -> Source:
    """The source was recorded, usually while it was inverted; ``keys`` says how the recorded run read its frames."""
    return lambda maps: store.maps(maps.site, maps.moment, maps.frames, maps.heads, keys(maps.site))


@dataclass(kw_only=True)
class _Edit(MapEdit):
    """``words`` gives some key tokens (positions) a window of their own; ``max_queries`` 0 means every resolution."""

    kind: ClassVar[AttentionKind]

    source: Source
    window: StepWindow
    words: dict[int, StepWindow] = field(default_factory=dict)
    branch: str = "target"
    max_queries: int = 0

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        windows = (self.window, *self.words.values())
        return site.kind is self.kind and moment.direction is Direction.DENOISE and any(w.holds(moment.step, moment.num_steps) for w in windows)

    def __call__(self, maps: Maps) -> Tensor:
        values, rows = maps.values, maps.moment.rows
        if self.max_queries and values.shape[-2] > self.max_queries:
            return values
        g, r = rows.guidance.index("text"), rows.branch(self.branch)
        changed = values.clone()
        changed[g, r] = self.mixed(self.source(maps), values[g, r], maps)
        return changed

    @abstractmethod
    def mixed(self, source: Tensor, target: Tensor, maps: Maps) -> Tensor:
        """``f m n k`` each."""


@dataclass(kw_only=True)
class SwapCross(_Edit):
    """Replace or refine by an alignment of the prompts."""

    kind = AttentionKind.CROSS

    alignment: Alignment

    def mixed(self, source: Tensor, target: Tensor, maps: Maps) -> Tensor:
        moment = maps.moment
        share = self.alignment.kept * float(self.window.holds(moment.step, moment.num_steps))
        for position, window in self.words.items():
            share[position] = float(window.holds(moment.step, moment.num_steps)) * self.alignment.kept[position]
        share = share.to(target)
        return share * (source @ self.alignment.mapper.to(source)).to(target) + (1 - share) * target


@dataclass(kw_only=True)
class Amplify(MapEdit):
    """Multiplies the attention that tokens of the target receive (re-weighting); 1 changes nothing. Maps are not normalised again, as in the paper."""

    factors: dict[int, float]
    window: StepWindow
    branch: str = "target"

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return site.kind is AttentionKind.CROSS and moment.direction is Direction.DENOISE and self.window.holds(moment.step, moment.num_steps)

    def __call__(self, maps: Maps) -> Tensor:
        rows, changed = maps.moment.rows, maps.values.clone()
        g, r = rows.guidance.index("text"), rows.branch(self.branch)
        changed[g, r][..., list(self.factors)] *= torch.tensor(list(self.factors.values())).to(changed)
        return changed


@dataclass(kw_only=True)
class CopySelf(_Edit):
    """The target's self-attention is the source's."""

    kind = AttentionKind.SELF

    def mixed(self, source: Tensor, target: Tensor, maps: Maps) -> Tensor:
        return source.to(target)


@dataclass(kw_only=True)
class BlendSelf(_Edit):
    """Queries inside the mask keep the target's self-attention, the others read the source's (FateZero, eq. 5).

    ``mask(moment)`` is ``f H W`` bool on the latent grid ``size``.
    """

    kind = AttentionKind.SELF

    mask: Callable[[Moment], Tensor]
    size: tuple[int, int]

    def mixed(self, source: Tensor, target: Tensor, maps: Maps) -> Tensor:
        inside = resized(self.mask(maps.moment), target.shape[-2], self.size)[maps.frames, None, :, None]
        return torch.where(inside.to(target.device), target, source.to(target))
