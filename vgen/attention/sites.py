"""Addresses of the attentions of a UNet or ControlNet and of what is inserted: by path, kind, stage, level
and ordinal, never by counting calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from diffusers.models import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from vgen.backbones.sites import Stage
from vgen.spec import Choice, field, spec


class AttentionKind(Choice):
    SELF = "self"
    CROSS = "cross"
    TEMPORAL = "temporal"  # over frames, in a layer that was inserted


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """``level`` counts from the finest resolution (its map is ``latent side >> level`` wide); ``ordinal``
    counts sites of one kind in the order of execution, so that a paper's "layers 10 to 15" has a meaning on
    SD-1.x; ``place`` counts them within their stage; ``channels`` is the width of the queries."""

    path: str
    kind: AttentionKind
    stage: Stage
    level: int
    ordinal: int
    channels: int
    heads: int
    place: int = 0


@spec
class AttentionWhere:
    """A filter over attention sites.

    Empty lists mean no restriction, ``from_level`` 0 and ``from_ordinal`` 0 neither. Empty ``kinds`` are the
    image model's own: temporal attention is meant only where ``kinds`` names it.
    """

    kinds: list[AttentionKind] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    from_level: int = 0
    from_ordinal: int = 0

    def __call__(self, site: AttentionSite) -> bool:
        return (
            site.kind in (self.kinds or (AttentionKind.SELF, AttentionKind.CROSS))
            and (not self.stages or site.stage in self.stages)
            and (not self.levels or site.level in self.levels)
            and (not self.ordinals or site.ordinal in self.ordinals)
            and (not self.places or site.place in self.places)
            and site.level >= self.from_level
            and site.ordinal >= self.from_ordinal
        )


def tokens(site: AttentionSite, q: Tensor) -> int:
    """Positions in a frame, of queries ``b f n c`` (TEMPORAL: ``b p f c``)."""
    return q.shape[1] if site.kind is AttentionKind.TEMPORAL else q.shape[2]


def attention_sites(net: UNet2DConditionModel | ControlNetModel) -> list[AttentionSite]:
    """Every attention of ``net`` in the order of execution; 16 self and 16 cross on SD-1.x, 7 of each in its
    ControlNet."""
    out: list[AttentionSite] = []
    counts: Counter[AttentionKind] = Counter()
    within: Counter[tuple[AttentionKind, Stage]] = Counter()
    for path, stage, level in _blocks(net):
        for name, module in net.get_submodule(path).named_modules():
            if not isinstance(module, Attention):
                continue
            crosses = name.endswith("attn2") and module.is_cross_attention
            kind = AttentionKind.CROSS if crosses else AttentionKind.SELF
            ordinal, place, channels = counts[kind], within[kind, stage], module.to_q.in_features
            where = f"{path}.{name}"
            out.append(AttentionSite(where, kind, stage, level, ordinal, channels, module.heads, place))
            counts[kind] += 1
            within[kind, stage] += 1
    missing = set(net.attn_processors) - {f"{site.path}.processor" for site in out}
    if missing:
        raise ValueError(
            f"{len(missing)} attentions of {type(net).__name__} have no address (first: {min(missing)}); "
            "vgen knows down_blocks, mid_block and up_blocks"
        )
    return out


def _blocks(net: UNet2DConditionModel | ControlNetModel) -> Iterator[tuple[str, Stage, int]]:
    down = list(net.down_blocks)
    for i in range(len(down)):
        yield f"down_blocks.{i}", Stage.DOWN, i
    if getattr(net, "mid_block", None) is not None:
        yield "mid_block", Stage.MID, len(down) - 1
    for i in range(len(getattr(net, "up_blocks", ()))):
        yield f"up_blocks.{i}", Stage.UP, len(down) - 1 - i
