"""Addresses inside an image UNet: where a layer may be inserted, stated by stage and level, never by a
paper's ordinals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from diffusers.models import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from vgen.spec import Choice, field, spec


class Stage(Choice):
    DOWN = "down"
    MID = "mid"
    UP = "up"


class Kind(Choice):
    RESNET = "resnet"
    ATTENTION = "attention"  # a whole spatial transformer
    PAIR = "pair"  # a residual block together with the spatial transformer behind it, if there is one
    BLOCK = "block"  # one transformer block inside a spatial transformer


@dataclass(frozen=True, slots=True)
class Site:
    """``path`` of the module after which a layer may run; ``level`` counts from the finest resolution,
    ``block`` and ``index`` as diffusers does; ``heads`` are those of a transformer block's attention, 0
    elsewhere."""

    path: str
    stage: Stage
    kind: Kind
    level: int
    block: int
    index: int
    channels: int
    norm_groups: int
    heads: int = 0


@spec
class Where:
    """A filter over sites; empty lists mean no restriction."""

    kinds: list[Kind] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    def __call__(self, site: Site) -> bool:
        return (
            (not self.kinds or site.kind in self.kinds)
            and (not self.stages or site.stage in self.stages)
            and (not self.levels or site.level in self.levels)
        )


def after(kind: Kind, *, stages: list[Stage] | None = None, levels: list[int] | None = None) -> Where:
    return Where(kinds=[kind], stages=stages or [], levels=levels or [])


def sites(unet: UNet2DConditionModel) -> Iterator[Site]:
    """Every site in the order of execution."""
    depth, groups = len(unet.config["block_out_channels"]), unet.config["norm_num_groups"]
    for block, module in enumerate(unet.down_blocks):
        yield from _in_block(module, f"down_blocks.{block}", Stage.DOWN, block, block, groups)
    if unet.mid_block is not None:
        yield from _in_block(unet.mid_block, "mid_block", Stage.MID, depth - 1, 0, groups)
    for block, module in enumerate(unet.up_blocks):
        yield from _in_block(module, f"up_blocks.{block}", Stage.UP, depth - 1 - block, block, groups)


def _in_block(
    module: nn.Module, path: str, stage: Stage, level: int, block: int, groups: int
) -> Iterator[Site]:
    resnets, attentions = (
        list(cast(nn.ModuleList, module.resnets)),
        list(getattr(module, "attentions", None) or []),
    )
    if stage is Stage.MID:  # resnet 0 stands alone; every later one comes after its attention
        yield _site(f"{path}.resnets.0", stage, Kind.RESNET, level, block, 0, resnets[0], groups)
        for i, attention in enumerate(attentions):
            yield from _attention_sites(f"{path}.attentions.{i}", stage, level, block, i, attention, groups)
            yield _site(f"{path}.attentions.{i}", stage, Kind.PAIR, level, block, i, attention, groups)
            yield _site(
                f"{path}.resnets.{i + 1}", stage, Kind.RESNET, level, block, i + 1, resnets[i + 1], groups
            )
        return
    for i, resnet in enumerate(resnets):
        yield _site(f"{path}.resnets.{i}", stage, Kind.RESNET, level, block, i, resnet, groups)
        if attentions:
            yield from _attention_sites(
                f"{path}.attentions.{i}", stage, level, block, i, attentions[i], groups
            )
            yield _site(f"{path}.attentions.{i}", stage, Kind.PAIR, level, block, i, attentions[i], groups)
        else:
            yield _site(f"{path}.resnets.{i}", stage, Kind.PAIR, level, block, i, resnet, groups)


def _attention_sites(
    path: str, stage: Stage, level: int, block: int, index: int, attention: nn.Module, groups: int
) -> Iterator[Site]:
    for j, inner in enumerate(cast(nn.ModuleList, attention.transformer_blocks)):
        assert isinstance(inner, BasicTransformerBlock)
        yield Site(
            f"{path}.transformer_blocks.{j}",
            stage,
            Kind.BLOCK,
            level,
            block,
            index,
            inner.dim,
            groups,
            inner.num_attention_heads,
        )
    yield _site(path, stage, Kind.ATTENTION, level, block, index, attention, groups)


def _site(
    path: str, stage: Stage, kind: Kind, level: int, block: int, index: int, module: nn.Module, groups: int
) -> Site:
    match module:
        case ResnetBlock2D():
            channels = module.out_channels
        case Transformer2DModel():
            channels = module.in_channels
        case _:
            raise ValueError(
                f"{path} is a {type(module).__name__}; vgen knows the residual and transformer blocks of "
                "UNet2DConditionModel only"
            )
    return Site(path, stage, kind, level, block, index, channels, groups)
