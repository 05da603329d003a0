"""Edits of attention maps (Hertz et al. 2022, section 3.2; FateZero, Qi et al. 2023, section 4.2).

All act on the conditional row of one branch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vgen.attention.control import MapEdit, Maps, QkSwap, Swapped
from vgen.attention.keys import FrameKeys
from vgen.attention.masks import grid
from vgen.attention.sites import AttentionKind, AttentionSite, tokens
from vgen.attention.store import AttentionStore
from vgen.attention.words import Alignment
from vgen.diffusion.moment import Direction, Moment
from vgen.diffusion.step_window import StepWindow


class Source(ABC):
    """Where an edit takes the source's attention from."""

    @abstractmethod
    def maps(self, maps: Maps) -> Tensor:
        """The source's probabilities for a chunk of the target's, ``f m n k`` (of the conditional row)."""

    @abstractmethod
    def queries_keys(
        self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The source's ``f n c`` and ``f s c`` (or 1 s c), for a run whose own are ``q`` (g r) f n c and
        ``k`` (g r) f s c, as read."""


@dataclass(frozen=True, slots=True)
class Sibling(Source):
    """The source is denoised in the same batch."""

    branch: str = "source"

    def maps(self, maps: Maps) -> Tensor:
        rows = maps.moment.rows
        return maps.values[rows.guidance.index("text"), rows.branch(self.branch)]

    def queries_keys(
        self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        at = moment.rows.at("text", self.branch)
        return q[at], k[at]


@dataclass(frozen=True, slots=True)
class Recorded(Source):
    """The source was recorded, usually while it was inverted; ``keys`` says how the recorded run read its
    frames at a site."""

    store: AttentionStore
    keys: Callable[[AttentionSite], FrameKeys | None] = lambda site: None

    def maps(self, maps: Maps) -> Tensor:
        return self.store.maps(maps.site, maps.moment, maps.frames, maps.heads, self.keys(maps.site))

    def queries_keys(
        self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        found_q, found_k = self.store.queries_keys(site, moment, self.keys(site))
        return found_q.to(q.dtype), found_k.to(k.dtype)


@dataclass(kw_only=True)
class SwapCross(MapEdit):
    """Replace or refine by an alignment of the prompts, inside ``window``; ``words`` gives some key tokens
    (positions) a window of their own. ``max_queries`` 0 means every resolution."""

    source: Source
    alignment: Alignment
    window: StepWindow
    words: dict[int, StepWindow] = field(default_factory=dict)
    branch: str = "target"
    max_queries: int = 0

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        windows = (self.window, *self.words.values())
        return (
            site.kind is AttentionKind.CROSS
            and moment.direction is Direction.DENOISE
            and any(w.holds(moment.step, moment.num_steps) for w in windows)
        )

    def __call__(self, maps: Maps) -> Tensor:
        values, rows, moment = maps.values, maps.moment.rows, maps.moment
        if self.max_queries and values.shape[-2] > self.max_queries:
            return values
        g, r = rows.guidance.index("text"), rows.branch(self.branch)
        share = self.alignment.kept * float(self.window.holds(moment.step, moment.num_steps))
        for position, window in self.words.items():
            share[position] = (
                float(window.holds(moment.step, moment.num_steps)) * self.alignment.kept[position]
            )
        share = share.to(values)
        source = self.source.maps(maps).to(values)
        changed = values.clone()
        changed[g, r] = share * (source @ self.alignment.mapper.to(values)) + (1 - share) * values[g, r]
        return changed


@dataclass(kw_only=True)
class Amplify(MapEdit):
    """Multiplies the attention that tokens of the target receive (re-weighting); 1 changes nothing.
    Maps are not normalised again, as in the paper. ``words`` gives some tokens a window of their own."""

    factors: dict[int, float]
    window: StepWindow
    words: dict[int, StepWindow] = field(default_factory=dict)
    branch: str = "target"

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        acts = site.kind is AttentionKind.CROSS and moment.direction is Direction.DENOISE
        return acts and bool(self._now(moment))

    def __call__(self, maps: Maps) -> Tensor:
        rows, changed, factors = maps.moment.rows, maps.values.clone(), self._now(maps.moment)
        g, r = rows.guidance.index("text"), rows.branch(self.branch)
        changed[g, r][..., list(factors)] *= torch.tensor(list(factors.values())).to(changed)
        return changed

    def _now(self, moment: Moment) -> dict[int, float]:
        """The factors of the tokens whose window holds the step."""
        return {
            position: factor
            for position, factor in self.factors.items()
            if self.words.get(position, self.window).holds(moment.step, moment.num_steps)
        }


@dataclass(kw_only=True)
class CopySelf(QkSwap):
    """The target's self-attention is the source's: its maps are those of the source's queries and keys, so
    none has to be made.

    ``kind`` TEMPORAL does so for the inserted attention over frames (Video-P2P, Liu et al. 2023: its "self"
    maps are temporal, of every site, in the first half of the steps; its self-attention keeps its own).
    ``max_queries`` bounds the positions in a frame for either kind; 0 means every resolution. With ``mask``,
    queries inside it keep the target's own (FateZero, eq. 5): ``mask(moment, (h, w))`` is
    ``f h w`` bool of a map's own size, for latents of ``size``.
    """

    source: Source
    window: StepWindow
    kind: AttentionKind = AttentionKind.SELF
    branch: str = "target"
    max_queries: int = 0
    mask: Callable[[Moment, tuple[int, int]], Tensor] | None = None
    size: tuple[int, int] = (0, 0)

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return (
            site.kind is self.kind
            and moment.direction is Direction.DENOISE
            and self.window.holds(moment.step, moment.num_steps)
        )

    def __call__(self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor) -> Swapped | None:
        num_tokens = tokens(site, q)
        if self.max_queries and num_tokens > self.max_queries:
            return None
        inside = None
        if self.mask is not None:
            inside = self.mask(moment, grid(num_tokens, self.size)).flatten(1).to(q.device)
            if site.kind is AttentionKind.TEMPORAL:
                inside = inside.T  # p f
        return Swapped(
            moment.rows.at("text", self.branch), *self.source.queries_keys(site, moment, q, k), inside
        )
