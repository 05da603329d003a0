"""Where an edit acts: masks from the cross-attention maps of words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.attention.control import MapEdit, Maps
from vgen.attention.sites import AttentionKind, AttentionSite, AttentionWhere
from vgen.attention.store import AttentionStore
from vgen.backbones.sites import Stage
from vgen.diffusion.moment import Moment
from vgen.spec import field, spec


@spec
class MaskSpec:
    """``threshold`` of the map divided by its maximum (over 1: nothing is inside); ``grow`` is the side of
    the max-pooling window in map cells. ``where`` chooses maps, and of their resolutions the one with nearest
    to ``num_queries`` tokens counts: the released code's 16 x 16 maps of the down and up blocks on Stable
    Diffusion's 64 x 64 latents."""

    threshold: float = 0.3
    grow: int = 3
    num_queries: int = 256
    where: AttentionWhere = field(default_factory=lambda: AttentionWhere(stages=[Stage.DOWN, Stage.UP]))

    def __post_init__(self) -> None:
        if self.grow < 1 or self.grow % 2 == 0:
            raise ValueError(
                f"mask.grow must be odd so that it is centred on a cell, got {self.grow}; 3 is the paper's"
            )
        if self.num_queries < 1:
            raise ValueError(
                f"mask.num_queries must be at least 1, got {self.num_queries}; 256 takes maps of 16 x 16"
            )


def mask_sites(
    sites: Iterable[AttentionSite], aspect: tuple[int, int], settings: MaskSpec
) -> list[AttentionSite]:
    """The cross-attentions whose maps make the mask, all of one resolution (of two as near to ``num_queries``
    the finer). Raises ValueError where ``where`` matches none."""
    chosen = [site for site in sites if site.kind is AttentionKind.CROSS and settings.where(site)]
    if not chosen:
        raise ValueError("mask.where matches no cross-attention of this UNet; leave it out")
    tokens = {level: math.prod(_halved(aspect, level)) for level in {site.level for site in chosen}}
    level = min(tokens, key=lambda i: (abs(math.log(tokens[i] / settings.num_queries)), i))
    return [site for site in chosen if site.level == level]


def mask_of(heat: Tensor, size: tuple[int, int], settings: MaskSpec) -> Tensor:
    """``f h w`` non-negative heat to a bool mask ``f H W``: max-pooled, resized to the nearest cell, divided
    by each frame's maximum, thresholded."""
    pooled = F.max_pool2d(heat[:, None], settings.grow, 1, settings.grow // 2)
    scaled = F.interpolate(pooled, size, mode="nearest")[:, 0]
    return scaled / scaled.amax((1, 2), keepdim=True).clamp(min=1e-12) > settings.threshold


class WordHeat(MapEdit):
    """Sums, over ``sites`` of one resolution and steps so far, the attention that chosen tokens of a branch
    receive; changes nothing.

    ``tokens`` maps a branch to its token positions. ``heat(branch)`` is ``f h w`` on the maps' own grid.
    """

    def __init__(
        self,
        tokens: Mapping[str, Sequence[int]],
        sites: Sequence[AttentionSite],
        aspect: tuple[int, int],
        num_frames: int,
    ) -> None:
        self.tokens, self.num_frames = tokens, num_frames
        self.paths, self.grid = {site.path for site in sites}, _halved(aspect, sites[0].level)
        self._sums: dict[str, Tensor] = {}

    def wants(self, site: AttentionSite, moment: Moment) -> bool:
        return site.path in self.paths

    def __call__(self, maps: Maps) -> Tensor:
        values, rows = maps.values, maps.moment.rows
        seen = maps.moment.frames or range(self.num_frames)
        at = torch.tensor(seen[maps.frames], device=values.device)
        text = values[rows.guidance.index("text")]  # r f m n k
        for branch, tokens in self.tokens.items():
            found = text[rows.branch(branch)][..., list(tokens)].sum((1, 3))  # f n
            total = self._sums.setdefault(branch, values.new_zeros(self.num_frames, values.shape[-2]))
            total.index_add_(0, at, found)
        return values

    def heat(self, branch: str) -> Tensor:
        return self._sums[branch].unflatten(1, self.grid)


def _halved(aspect: tuple[int, int], level: int) -> tuple[int, int]:
    """Height and width of a level's map of a latent of size ``aspect``; each level halves, rounding up."""
    h, w = aspect
    for _ in range(level):
        h, w = -(-h // 2), -(-w // 2)
    return h, w


def grid(n: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a map of ``n`` tokens of a latent of size ``aspect``."""
    level = 0
    while math.prod(_halved(aspect, level)) > max(n, 1):
        level += 1
    h, w = _halved(aspect, level)
    if h * w != n:
        raise ValueError(f"{n} attention tokens are no level of a latent of {aspect[0]} x {aspect[1]} cells")
    return h, w


def stored_mask(
    store: AttentionStore,
    sites: Sequence[AttentionSite],
    moment: Moment,
    tokens: Sequence[int],
    aspect: tuple[int, int],
    size: tuple[int, int],
    settings: MaskSpec,
) -> Tensor:
    """The mask of words ``f H W`` of ``size`` at one step of a recorded run (FateZero, Qi et al. 2023,
    section 4.2: maps of the inversion); ``sites`` are of one resolution of a latent of size ``aspect``."""
    held = [site for site in sites if store.holds(site, moment)]
    if not held:
        raise ValueError(
            f"step {moment.step} of the recorded run holds none of the cross-attention maps that the mask is "
            "made of; raise store.max_queries or lower mask.num_queries"
        )
    whole = slice(None)
    found = [store.maps(site, moment, whole, whole)[..., list(tokens)].sum((1, 3)) for site in held]
    heat = torch.stack(found).sum(0)
    return mask_of(heat.unflatten(1, _halved(aspect, held[0].level)), size, settings)


def union(masks: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(masks)).any(0)
