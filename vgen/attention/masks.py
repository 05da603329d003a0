"""Where an edit acts: masks from the cross-attention maps of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.attention.control import MapEdit, Maps
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore
from vgen.diffusion.moment import Moment
from vgen.spec import field, spec


@spec
class MaskSpec:
    """``threshold`` of the map divided by its maximum (over 1: nothing is inside); ``where`` chooses maps, of
    which those with at most ``max_queries`` tokens count; ``grow`` is the side of the max-pooling window in
    map cells."""

    threshold: float = 0.3
    grow: int = 3
    max_queries: int = 256
    where: AttentionWhere = field(default_factory=lambda: AttentionWhere(kinds=[AttentionKind.CROSS]))

    def __post_init__(self) -> None:
        if self.grow < 1 or self.grow % 2 == 0:
            raise ValueError(
                f"mask.grow must be odd so that it is centred on a cell, got {self.grow}; 3 is the paper's"
            )


def mask_of(heat: Tensor, size: tuple[int, int], settings: MaskSpec) -> Tensor:
    """``f h w`` non-negative heat to a bool mask ``f H W``: max-pooled, resized, divided by each frame's
    maximum, thresholded."""
    pooled = F.max_pool2d(heat[:, None], settings.grow, 1, settings.grow // 2)
    scaled = F.interpolate(pooled, size, mode="bilinear", align_corners=False)[:, 0]
    return scaled / scaled.amax((1, 2), keepdim=True).clamp(min=1e-12) > settings.threshold


class WordHeat(MapEdit):
    """Sums, over sites and steps so far, the attention that chosen tokens of a branch receive; changes
    nothing.

    ``tokens`` maps a branch to its token positions. ``heat(branch)`` is ``f h w`` (the finest map's grid), a
    mean over what was seen.
    """

    def __init__(
        self,
        tokens: Mapping[str, Sequence[int]],
        settings: MaskSpec,
        aspect: tuple[int, int],
        num_frames: int,
    ) -> None:
        self.tokens, self.settings, self.aspect, self.num_frames = tokens, settings, aspect, num_frames
        self._sums: dict[str, dict[int, Tensor]] = {branch: {} for branch in tokens}

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return site.kind is AttentionKind.CROSS and self.settings.where(site)

    def __call__(self, maps: Maps) -> Tensor:
        values, rows, seen = maps.values, maps.moment.rows, maps.moment.frames
        n, first = values.shape[-2], 0 if seen is None else seen.start
        if n <= self.settings.max_queries:
            text = values[rows.guidance.index("text")]  # r f m n k
            for branch, tokens in self.tokens.items():
                found = text[rows.branch(branch)][..., list(tokens)].sum((1, 3))  # f n
                total = self._sums[branch].setdefault(n, values.new_zeros(self.num_frames, n))
                total[first + maps.frames.start : first + maps.frames.stop] += found
        return values

    def heat(self, branch: str) -> Tensor:
        if not self._sums[branch]:
            raise ValueError(
                f"no cross-attention map of at most {self.settings.max_queries} tokens was seen for the "
                f"mask of branch {branch!r}; "
                "raise mask.max_queries"
            )
        return _joined(self._sums[branch], self.aspect)


def _joined(sums: dict[int, Tensor], aspect: tuple[int, int]) -> Tensor:
    """Maps of several resolutions, ``f n`` each, as one ``f h w`` on the finest grid, each weighted by its
    attention per cell."""
    grids = {n: grid(n, aspect) for n in sums}
    finest = grids[max(grids)]
    return sum(
        (
            F.interpolate(sums[n].unflatten(1, g)[:, None], finest, mode="bilinear", align_corners=False)[
                :, 0
            ]
            for n, g in grids.items()
        ),
        torch.zeros(()),
    )


def grid(n: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a map of ``n`` tokens of a latent of size ``aspect``; each level halves, rounding
    up."""
    h, w = aspect
    while h * w > n:
        h, w = -(-h // 2), -(-w // 2)
    if h * w != n:
        raise ValueError(f"{n} attention tokens are no level of a latent of {aspect[0]} x {aspect[1]} cells")
    return h, w


def stored_mask(
    store: AttentionStore,
    sites: Sequence[AttentionSite],
    moment: Moment,
    tokens: Sequence[int],
    size: tuple[int, int],
    settings: MaskSpec,
) -> Tensor:
    """The mask of words ``f H W`` at one step of a recorded run (FateZero, Qi et al. 2023, section 4.2: maps
    of the inversion)."""
    sums: dict[int, Tensor] = {}
    for site in sites:
        if site.kind is AttentionKind.CROSS and settings.where(site) and store.holds(site, moment):
            maps = store.maps(site, moment, slice(None), slice(None))
            n = maps.shape[-2]
            if n <= settings.max_queries:
                heat = maps[..., list(tokens)].sum((1, 3))
                sums[n] = sums[n] + heat if n in sums else heat
    if not sums:
        raise ValueError(
            f"step {moment.step} of the recorded run holds no cross-attention map of at most "
            f"{settings.max_queries} tokens; "
            "raise store.max_queries or mask.max_queries"
        )
    return mask_of(_joined(sums, size), size, settings)


def resized(mask: Tensor, n: int, aspect: tuple[int, int]) -> Tensor:
    """``f H W`` bool to ``f n`` bool at a map's resolution: a token is inside where most of its cells are."""
    return (F.adaptive_avg_pool2d(mask[:, None].float(), grid(n, aspect))[:, 0] >= 0.5).flatten(1)


def union(masks: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(masks)).any(0)
