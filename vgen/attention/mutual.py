"""Mutual self-attention: a target asks, its source answers (MasaCtrl, Cao et al. 2023, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.attention.control import Edit, Given, KvSwap, MapEdit, Maps
from vgen.attention.keys import FrameKeys, gathered
from vgen.attention.masks import MaskSpec, grid, mask_sites
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.backbones.sites import Stage
from vgen.diffusion.moment import Direction, Moment
from vgen.diffusion.step_window import StepWindow, Unit
from vgen.spec import field, spec

Masks = Callable[[Moment], tuple[Tensor, Tensor]]
"""Foreground of source and target, bool ``f H W`` each, of the frames that are seen at a moment."""


def _finest() -> AttentionWhere:
    return AttentionWhere(stages=[Stage.UP], levels=[0, 1])


@spec
class Mutual:
    """What MasaCtrl does, in one value.

    - ``window`` and ``where``: from step 4 on, in the two finest levels of the way up, which are the released
      self-attentions 10 to 15 of SD-1.x.
    - ``union``: the target reads its own keys and values too. The paper's; the released code raises.
    - ``threshold``: a cell belongs to a word from this share of its heat on, which is scaled to 0..1 in each
      frame; 0 takes every cell.
    - ``num_queries``: of the resolutions of cross-attention, the one with nearest to so many tokens is the
      heat's;
      16 x 16 as released.
    """

    window: StepWindow = field(default_factory=lambda: StepWindow(start=4, end=1000, unit=Unit.STEP))
    where: AttentionWhere = field(default_factory=_finest)
    union: bool = False
    threshold: float = 0.1
    num_queries: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1 or self.num_queries < 1:
            raise ValueError(
                "mutual attention needs a threshold from 0 to 1 and num_queries of at least 1, got "
                f"{self.threshold} and {self.num_queries}; 0.1 and 256 are the paper's"
            )

    def edits(
        self,
        sites: Collection[AttentionSite],
        size: tuple[int, int],
        tokens: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Edit]:
        """Edits for branches ``source`` and ``target`` of latents of ``size`` in a net of ``sites``. With
        ``tokens`` of both, their place is foreground, and foreground reads foreground alone. Raises
        ValueError where no self-attention would read the source."""
        own = [site for site in sites if site.kind is AttentionKind.SELF]
        if not any(self.where(site) for site in own):
            raise ValueError(
                f"mutual.where matches none of the {len(own)} self-attentions of this UNet; name stages and "
                "levels "
                "that it has"
            )
        plain = MutualSelf(window=self.window, where=self.where, union=self.union, size=size)
        if not tokens:
            return [plain]
        maps = mask_sites(sites, size, MaskSpec(num_queries=self.num_queries, where=AttentionWhere()))
        heat = StepHeat(tokens, maps[0].level, size, self.threshold)
        return [heat, replace(plain, masks=heat.masks)]


@dataclass(kw_only=True)
class MutualSelf(KvSwap):
    """The target's queries read the source's keys and values, each guidance row those of its own.

    With ``union`` they read the target's as well. With ``masks``, queries in the target's foreground read the
    source's foreground alone, and the others its background.
    """

    window: StepWindow
    where: AttentionWhere
    size: tuple[int, int]
    union: bool = False
    masks: Masks | None = None
    source: str = "source"
    branch: str = "target"

    def __post_init__(self) -> None:
        if self.union and self.masks is not None:
            raise ValueError(
                "union leaves no side to a mask: it reads the target's own keys; drop one of them"
            )

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return (
            site.kind is AttentionKind.SELF
            and self.where(site)
            and moment.direction is Direction.DENOISE
            and self.window.holds(moment.step, moment.num_steps)
        )

    def __call__(
        self, site: AttentionSite, moment: Moment, q: Tensor, k: Tensor, v: Tensor, keys: FrameKeys | None
    ) -> list[Given]:
        sides = None if self.masks is None else self._sides(site, self.masks(moment), q, k, keys)
        out = []
        for guidance in moment.rows.guidance:
            source, target = (moment.rows.at(guidance, name) for name in (self.source, self.branch))
            if self.union:
                both_k, both_v = (torch.cat([x[target], x[source]], 1) for x in (k, v))  # f 2s c
                out.append(Given(target, both_k, both_v))
            else:
                out.append(Given(target, k[source], v[source], sides))
        return out

    def _sides(
        self,
        site: AttentionSite,
        masks: tuple[Tensor, Tensor],
        q: Tensor,
        k: Tensor,
        keys: FrameKeys | None,
    ) -> tuple[Tensor, Tensor]:
        """Foreground of the target's queries ``f n`` and of the source's keys as read, ``f s``."""
        cells = grid(q.shape[2], self.size)
        source, target = (F.interpolate(x[:, None].float(), cells)[:, 0].flatten(1) > 0.5 for x in masks)
        if keys is not None:
            own = replace(keys, rows_from="", beside_own=False)
            source = gathered(source[None, ..., None], own, None)[0, ..., 0]
        if source.shape[1] != k.shape[2]:
            raise ValueError(
                f"mutual attention has a mask for {source.shape[1]} keys at {site.path}, which reads "
                f"{k.shape[2]}; references have no mask, leave them out"
            )
        return target, source


class StepHeat(MapEdit):
    """Foreground by the attention that words receive in this step, at the sites before the one that asks;
    changes nothing.

    ``tokens`` maps the branches ``source`` and ``target`` to token positions of their prompts.
    """

    def __init__(
        self, tokens: Mapping[str, Sequence[int]], level: int, size: tuple[int, int], threshold: float
    ) -> None:
        missing = [name for name in ("source", "target") if not tokens.get(name)]
        if missing:
            raise ValueError(
                f"masks of mutual attention need words of both prompts, got none for {' and '.join(missing)}"
                "; name one that is in it"
            )
        self.tokens, self.level, self.size, self.threshold = tokens, level, size, threshold
        self._moment: Moment | None = None
        self._seen: dict[tuple[str, str, int, int], Tensor] = {}

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return (
            site.kind is AttentionKind.CROSS
            and site.level == self.level
            and moment.direction is Direction.DENOISE
        )

    def __call__(self, maps: Maps) -> Tensor:
        if maps.moment != self._moment:
            self._moment, self._seen = maps.moment, {}
        rows = maps.moment.rows
        text = maps.values[rows.guidance.index("text")]  # r f m n k
        for branch in ("source", "target"):
            found = text[rows.branch(branch)][..., list(self.tokens[branch])].sum((1, 3))  # f n
            self._seen[branch, maps.site.path, maps.frames.start, maps.heads.start] = found
        return maps.values

    def masks(self, moment: Moment) -> tuple[Tensor, Tensor]:
        """Source and target, bool ``f h w`` each."""
        if not self._seen or moment != self._moment:
            raise ValueError(
                f"step {moment.step} asks for a mask before any cross-attention of level {self.level} was "
                "seen; let mutual.where begin later in the net, or name another mutual.num_queries"
            )
        return self._mask("source"), self._mask("target")

    def _mask(self, branch: str) -> Tensor:
        parts: dict[int, Tensor] = {}
        for (name, _, frame, _), found in self._seen.items():
            if name == branch:
                parts[frame] = parts[frame] + found if frame in parts else found
        heat = torch.cat([parts[frame] for frame in sorted(parts)])  # f n
        low, high = heat.amin(1, keepdim=True), heat.amax(1, keepdim=True)
        scaled = (heat - low) / (high - low).clamp(min=1e-12)
        return (scaled >= self.threshold).unflatten(1, grid(heat.shape[1], self.size))
