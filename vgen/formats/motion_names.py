"""Where motion modules live, in vgen's sidecar and in the original layout, and which tensors each of them
holds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffusers.models import UNet2DConditionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor

from vgen.backbones.sites import Kind, Stage, sites

MOST_LISTED = 5


@dataclass(frozen=True, slots=True)
class Home:
    """One motion module: ``unet.inserted.down_blocks/0/attentions/1`` here,
    ``down_blocks.0.motion_modules.1`` elsewhere."""

    sidecar: str
    original: str
    channels: int
    in_middle: bool


@dataclass(frozen=True, slots=True)
class Depth:
    """How many transformer blocks a module has, and how many attentions each of them."""

    num_blocks: int
    num_attentions: int


def homes(unet: UNet2DConditionModel) -> list[Home]:
    """Every place AnimateDiff knows, the middle block's included, in the order of execution."""
    out = []
    for site in sites(unet):
        if site.kind is Kind.PAIR:
            block = "mid_block" if site.stage is Stage.MID else f"{site.stage.value}_blocks.{site.block}"
            sidecar = f"unet.inserted.{site.path.replace('.', '/')}"
            out.append(
                Home(sidecar, f"{block}.motion_modules.{site.index}", site.channels, site.stage is Stage.MID)
            )
    return out


def shapes(channels: int, depth: Depth) -> dict[str, tuple[int, ...]]:
    """The learnt tensors of one module by their original names, below ``temporal_transformer``."""
    c = channels

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (c,), f"{name}.bias": (c,)}

    def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    out = norm("norm") | linear("proj_in", c, c) | linear("proj_out", c, c)
    for j in range(depth.num_blocks):
        block = f"transformer_blocks.{j}"
        for k in range(depth.num_attentions):
            attention = f"{block}.attention_blocks.{k}"
            out |= (
                {f"{attention}.to_{name}.weight": (c, c) for name in "qkv"}
                | linear(f"{attention}.to_out.0", c, c)
                | norm(f"{block}.norms.{k}")
            )
        out |= (
            linear(f"{block}.ff.net.0.proj", 8 * c, c)
            | linear(f"{block}.ff.net.2", c, 4 * c)
            | norm(f"{block}.ff_norm")
        )
    return out


def depth_of(names: Iterable[str]) -> Depth:
    """Read off the highest index of transformer blocks and of attentions."""

    def count(pattern: str) -> int:
        return max((int(m[1]) + 1 for m in map(re.compile(pattern).search, names) if m), default=1)

    names = list(names)
    return Depth(count(r"\.transformer_blocks\.(\d+)\."), count(r"\.attention_blocks\.(\d+)\."))


def positions(num_positions: int, like: Tensor) -> Tensor:
    """The table ``1 p c`` that AnimateDiff calls ``pe``, for a module whose norm weight is ``like``."""
    return SinusoidalPositionalEmbedding(len(like), num_positions).get_buffer("pe").to(like)


def refuse_difference(
    found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], subject: str
) -> None:
    """Names and shapes must be exactly ``wanted``. Raises ValueError listing what is unknown, missing or of
    another shape."""
    unknown = [name for name in found if name not in wanted]
    missing = [name for name in wanted if name not in found]
    other = [
        f"{n} is {tuple(found[n].shape)} for {s}"
        for n, s in wanted.items()
        if n in found and tuple(found[n].shape) != s
    ]
    faults = [
        f"{len(names)} {what}: {listed(names)}"
        for what, names in (("unknown", unknown), ("missing", missing), ("of another shape", other))
        if names
    ]
    if faults:
        raise ValueError(
            f"{subject} does not hold exactly the {len(wanted)} tensors of its motion modules; "
            f"{'; '.join(faults)}"
        )


def listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more
