"""Addresses inside a net, where a layer may be inserted: by kind, stage and level, never by a paper's
ordinals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from vgen.spec import Choice, field, spec


class Stage(Choice):
    """Where in a net a site lies; ``stem`` is what belongs to no block, as the first convolution."""

    DOWN = "down"
    MID = "mid"
    UP = "up"
    STEM = "stem"


class Kind(Choice):
    """What a site is.

    - ``resnet``: a residual block.
    - ``attention``: a whole spatial transformer.
    - ``pair``: a residual block together with the spatial transformer behind it, if there is one.
    - ``block``: one transformer block inside a spatial transformer.
    - ``resolution``: the last residual block or spatial transformer of a stage's level.
    - ``attn1``, ``attn2``, ``ff``: the self-attention, cross-attention and feed-forward of a transformer
      block.
    - ``conv``, ``linear``: any convolution, any projection.
    - ``conv_in``, ``conv_out``, ``time_embedding``: the first and the last convolution, the embedding of
      diffusion time.
    - ``hint``: a convolution that a ControlNet's picture goes through.
    """

    RESNET = "resnet"
    ATTENTION = "attention"
    PAIR = "pair"
    BLOCK = "block"
    RESOLUTION = "resolution"
    ATTN1 = "attn1"
    ATTN2 = "attn2"
    FF = "ff"
    CONV = "conv"
    LINEAR = "linear"
    CONV_IN = "conv_in"
    CONV_OUT = "conv_out"
    HINT = "hint"
    TIME_EMBEDDING = "time_embedding"


INSERTED = "inserted"
"""Behind the name of a net: its inserted layers, in place of the net itself."""
COARSE = (Kind.RESNET, Kind.ATTENTION, Kind.PAIR, Kind.BLOCK)
"""The kinds that 'vgen sites' lists when it is asked for none by name."""


@dataclass(frozen=True, slots=True)
class Site:
    """``path`` of the module after which a layer may run; ``level`` counts from the finest resolution,
    ``block`` and ``index`` as diffusers does. ``channels`` are those of the module's output, ``heads`` those
    of a transformer block's attention, 0 elsewhere."""

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
    """A filter over sites; empty lists mean no restriction. ``paths`` are ``fnmatch`` patterns over a site's
    path."""

    kinds: list[Kind] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __call__(self, site: Site) -> bool:
        return (
            (not self.kinds or site.kind in self.kinds)
            and (not self.stages or site.stage in self.stages)
            and (not self.levels or site.level in self.levels)
            and (not self.paths or any(fnmatchcase(site.path, pattern) for pattern in self.paths))
        )


def after(kind: Kind, *, stages: list[Stage] | None = None, levels: list[int] | None = None) -> Where:
    return Where(kinds=[kind], stages=stages or [], levels=levels or [])


def sites(net: nn.Module) -> Iterator[Site]:
    """Every site of a net: of a UNet or ControlNet by all kinds, of a VAE its decoder's residual blocks too,
    of any other net (a text encoder, inserted layers) its convolutions and projections."""
    match net:
        case UNet2DConditionModel() | ControlNetModel():
            yield from _of_unet(net)
        case AutoencoderKL():
            yield from _of_decoder(net)
        case _:
            yield from _leaves(net, "", Stage.STEM, 0, 0, 0)


def inserted_sites(inserted: nn.ModuleDict) -> Iterator[Site]:
    """The convolutions and projections inside layers that were inserted, by their path in the sidecar; none
    inside layers that host no others."""
    for key, layer in inserted.items():
        if getattr(layer, "HOSTS", False):
            yield from _leaves(layer, f"{INSERTED}.{key}.", Stage.STEM, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of a net, while its sites are listed."""

    path: str
    stage: Stage
    level: int
    number: int
    groups: int

    def site(self, path: str, kind: Kind, index: int, module: nn.Module) -> Site:
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
        return Site(path, self.stage, kind, self.level, self.number, index, channels, self.groups)


def _of_unet(net: UNet2DConditionModel | ControlNetModel) -> Iterator[Site]:
    """In the order of execution, but for the leaves, which follow their block."""
    depth, groups = len(net.config["block_out_channels"]), net.config["norm_num_groups"] or 1
    first, width = net.config["block_out_channels"][0], _width(net.time_embedding.linear_2)
    yield Site("conv_in", Stage.STEM, Kind.CONV_IN, 0, 0, 0, first, groups)
    yield Site("time_embedding", Stage.STEM, Kind.TIME_EMBEDDING, 0, 0, 0, width, groups)
    for number, module in enumerate(net.down_blocks):
        yield from _in_block(module, _Block(f"down_blocks.{number}", Stage.DOWN, number, number, groups))
    if net.mid_block is not None:
        yield from _in_block(net.mid_block, _Block("mid_block", Stage.MID, depth - 1, 0, groups))
    for number, module in enumerate(getattr(net, "up_blocks", ())):
        block = _Block(f"up_blocks.{number}", Stage.UP, depth - 1 - number, number, groups)
        yield from _in_block(module, block)
    if isinstance(net, ControlNetModel):
        name = "controlnet_cond_embedding"
        yield from _all_as(Kind.HINT, net.controlnet_cond_embedding, f"{name}.", groups)
    if hasattr(net, "conv_out"):
        yield Site("conv_out", Stage.STEM, Kind.CONV_OUT, 0, 0, 0, _width(net.conv_out), groups)


def _all_as(kind: Kind, net: nn.Module, prefix: str, groups: int) -> Iterator[Site]:
    """The convolutions and projections inside ``net``, all of one kind."""
    for site in _leaves(net, prefix, Stage.STEM, 0, 0, groups):
        yield replace(site, kind=kind)


def _of_decoder(vae: AutoencoderKL) -> Iterator[Site]:
    depth, groups = len(vae.config["block_out_channels"]), vae.config["norm_num_groups"]
    decoder = cast(Any, vae.decoder)
    middle = _Block("decoder.mid_block", Stage.MID, depth - 1, 0, groups)
    blocks = [(middle, decoder.mid_block)]
    for number, module in enumerate(decoder.up_blocks):
        blocks.append(
            (_Block(f"decoder.up_blocks.{number}", Stage.UP, depth - 1 - number, number, groups), module)
        )
    for block, module in blocks:
        for i, resnet in enumerate(module.resnets):
            yield block.site(f"{block.path}.resnets.{i}", Kind.RESNET, i, resnet)
        yield from _leaves(module, f"{block.path}.", block.stage, block.level, block.number, groups)
    last = _width(decoder.conv_out)
    yield Site("decoder.conv_out", Stage.STEM, Kind.CONV_OUT, 0, 0, 0, last, groups)


def _in_block(module: nn.Module, block: _Block) -> Iterator[Site]:
    resnets = list(cast(nn.ModuleList, module.resnets))
    attentions = list(getattr(module, "attentions", None) or [])
    path = block.path
    if block.stage is Stage.MID:  # resnet 0 stands alone; every later one comes after its attention
        yield block.site(f"{path}.resnets.0", Kind.RESNET, 0, resnets[0])
        for i, attention in enumerate(attentions):
            yield from _attention_sites(attention, f"{path}.attentions.{i}", block, i)
            yield block.site(f"{path}.attentions.{i}", Kind.PAIR, i, attention)
            yield block.site(f"{path}.resnets.{i + 1}", Kind.RESNET, i + 1, resnets[i + 1])
        last = len(resnets) - 1
        yield block.site(f"{path}.resnets.{last}", Kind.RESOLUTION, last, resnets[last])
    else:
        for i, resnet in enumerate(resnets):
            yield block.site(f"{path}.resnets.{i}", Kind.RESNET, i, resnet)
            if attentions:
                yield from _attention_sites(attentions[i], f"{path}.attentions.{i}", block, i)
            ends = f"{path}.attentions.{i}" if attentions else f"{path}.resnets.{i}"
            owner = attentions[i] if attentions else resnet
            yield block.site(ends, Kind.PAIR, i, owner)
            if i == len(resnets) - 1:
                yield block.site(ends, Kind.RESOLUTION, i, owner)
    yield from _leaves(module, f"{path}.", block.stage, block.level, block.number, block.groups)


def _attention_sites(attention: nn.Module, path: str, block: _Block, index: int) -> Iterator[Site]:
    for j, inner in enumerate(cast(nn.ModuleList, attention.transformer_blocks)):
        assert isinstance(inner, BasicTransformerBlock)
        where, heads = f"{path}.transformer_blocks.{j}", inner.num_attention_heads
        parts = (("attn1", Kind.ATTN1), ("attn2", Kind.ATTN2), ("ff", Kind.FF))
        for name, kind in parts:
            if getattr(inner, name, None) is not None:
                yield _inner(f"{where}.{name}", kind, block, index, inner.dim, heads)
        yield _inner(where, Kind.BLOCK, block, index, inner.dim, heads)
    yield block.site(path, Kind.ATTENTION, index, attention)


def _inner(path: str, kind: Kind, block: _Block, index: int, channels: int, heads: int) -> Site:
    return Site(path, block.stage, kind, block.level, block.number, index, channels, block.groups, heads)


def _leaves(net: nn.Module, prefix: str, stage: Stage, level: int, block: int, groups: int) -> Iterator[Site]:
    """The convolutions and projections inside ``net``."""
    for name, module in net.named_modules():
        kind = {nn.Conv2d: Kind.CONV, nn.Conv1d: Kind.CONV, nn.Linear: Kind.LINEAR}.get(type(module))
        if kind is not None:
            yield Site(f"{prefix}{name}", stage, kind, level, block, 0, _width(module), groups)


def _width(module: nn.Module) -> int:
    """Channels of a convolution's or projection's output."""
    return cast(int, getattr(module, "out_channels", None) or getattr(module, "out_features", 0))
