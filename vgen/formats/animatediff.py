"""AnimateDiff's own key layout, every published variant of it, to and from vgen's sidecar.

Laws: ``import_(export(s)).tensors == s``; ``export(import_(x).tensors) == x`` once x has lost its wrapper,
``module.`` prefix and configuration entry, and has position tables in the precision of its weights. No file
of this layout stores heads, norm scopes or noise schedule: they follow from the version that is detected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.formats.foreign import Imported
from vgen.formats.motion_names import depth_of, homes, listed, positions, refuse_difference, shapes
from vgen.formats.wrapping import inside, unwrapped, what_it_is
from vgen.spec import Choice

INNER = "temporal_transformer"
ROWS_IF_ABSENT = 24  # the default of the trainer whose files carry no table
CONFIG = "animatediff_config"
SDXL_CHANNELS = (320, 640, 1280)
_MODULE = re.compile(rf"\.motion_modules\.\d+\.{INNER}\.norm\.weight$")


class Version(Choice):
    V1 = "v1"
    V2 = "v2"
    V3 = "v3"
    SDXL = "SDXL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a file turned out to be. ``channels`` per level, finest first; ``num_positions`` 0 means that it
    carries no table; ``unread`` are the entries beside its tensors."""

    version: Version
    channels: tuple[int, ...]
    mid_block: bool
    num_positions: int
    wrapper: str = ""
    prefix: str = ""
    has_config: bool = False
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{len(self.channels)} levels of {'/'.join(map(str, self.channels))} channels",
            f"{'a' if self.mid_block else 'no'} middle block",
        ]
        parts.append(f"{self.num_positions} position rows" if self.num_positions else "no position table")
        parts += (
            [f"in a {self.wrapper} wrapper"] * bool(self.wrapper)
            + [f"with {self.prefix} prefix"] * bool(self.prefix)
            + [f"with an {CONFIG} entry"] * self.has_config
        )
        return f"AnimateDiff {self.version.value}: {', '.join(parts)}"


def recognises(entries: Mapping[str, Any]) -> bool:
    """Whether a motion module's first norm is in it, wrapped or not, and it is no ControlNet's."""
    names = [name for name in inside(entries).state if isinstance(name, str)]
    beside = any(name.startswith("controlnet_") for name in names)
    return not beside and any(_MODULE.search(name) for name in names)


def export(
    tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, num_positions: int
) -> dict[str, Tensor]:
    """Sidecar to original names, with the position tables that identify a version to its readers.

    Raises ValueError where the tensors are not those of AnimateDiff's motion modules in ``unet``.
    """
    depth, mid_block = depth_of(tensors), any(name.startswith("unet.inserted.mid_block/") for name in tensors)
    here = [home for home in homes(unet) if mid_block or not home.in_middle]
    wanted = {
        f"{h.sidecar}.{INNER}.{tail}": shape
        for h in here
        for tail, shape in shapes(h.channels, depth).items()
    }
    refuse_difference(tensors, wanted, "the adapter")
    out: dict[str, Tensor] = {}
    for home in here:
        for tail in shapes(home.channels, depth):
            out[f"{home.original}.{INNER}.{tail}"] = tensors[f"{home.sidecar}.{INNER}.{tail}"]
        table = positions(num_positions, tensors[f"{home.sidecar}.{INNER}.norm.weight"])
        for j in range(depth.num_blocks):
            for k in range(depth.num_attentions):
                out[f"{home.original}.{INNER}.transformer_blocks.{j}.attention_blocks.{k}.pos_encoder.pe"] = (
                    table.clone()
                )
    return out


def import_(
    entries: Mapping[str, Any], unet: UNet2DConditionModel, rows_if_absent: int = ROWS_IF_ABSENT
) -> Imported:
    """Any published layout to the sidecar of ``unet``.

    Raises ValueError listing what is unknown or missing, and where the file belongs to an image model of
    other shapes.
    """
    layout, state = detect(entries, unet)
    channels = tuple(unet.config["block_out_channels"])
    if layout.channels != channels:
        raise ValueError(
            f"the file is {layout}, the image model has {'/'.join(map(str, channels))} channels; "
            "give the backbone= it was trained on"
        )
    notes = (
        [f"left unread what stands beside {layout.wrapper}: {listed(list(layout.unread))}"]
        if layout.unread
        else []
    )
    state = _without_image_unet(state, unet, notes)
    tables = {name: state.pop(name) for name in list(state) if name.endswith(".pos_encoder.pe")}
    depth = depth_of(state)
    here = [home for home in homes(unet) if layout.mid_block or not home.in_middle]
    wanted = {
        f"{h.original}.{INNER}.{tail}": shape
        for h in here
        for tail, shape in shapes(h.channels, depth).items()
    }
    refuse_difference(state, wanted, f"the file ({layout})")
    _check_tables(tables, state)
    if not tables:
        notes.append(
            f"the file carries no position table: {rows_if_absent} rows are assumed, set num_positions to "
            "the longest "
            "clip it was trained on"
        )
    tensors = {
        f"{h.sidecar}.{INNER}.{tail}": state[f"{h.original}.{INNER}.{tail}"]
        for h in here
        for tail in shapes(h.channels, depth)
    }
    knobs = implied(layout) | {"mid_block": layout.mid_block}
    knobs["motion"] = {
        "heads": 8,
        "num_blocks": depth.num_blocks,
        "num_attentions": depth.num_attentions,
        "num_positions": layout.num_positions or rows_if_absent,
        "norm_scope": "frame",
    }
    assumed = (
        f"heads 8, norm scopes (image {knobs['image_norm_scope']}, motion frame) and noise schedule "
        f"follow from {layout.version.value}; the file stores none of them"
    )
    return Imported(tensors=tensors, knobs=knobs, origin=str(layout), notes=notes, assumed=assumed)


def implied(layout: Layout) -> dict[str, Any]:
    """What the published configurations set and no file stores; v1 alone pools the image UNet's norms over
    frames."""
    sdxl = layout.version is Version.SDXL
    schedule = {
        "betas": "scaled_linear" if sdxl else "linear",
        "beta_start": 0.00085,
        "beta_end": 0.02 if sdxl else 0.012,
        "num_timesteps": 1000,
    }
    return {"image_norm_scope": "clip" if layout.version is Version.V1 else "frame", "schedule": schedule}


def detect(entries: Mapping[str, Any], unet: UNet2DConditionModel) -> tuple[Layout, dict[str, Tensor]]:
    """Name the layout and take its wrapping off; what is left are tensors under unprefixed names. Of three
    levels of other widths than the published SDXL's ``unet`` says whether they are one's."""
    found = unwrapped(entries)
    state = found.state
    _refuse_condition_encoder(state)
    has_config = state.pop(CONFIG, None) is not None
    if has_config:  # it has no prefix where the others have one
        again = unwrapped(state)
        found, state = replace(found, prefix=again.prefix), again.state
    _refuse_no_tensors(state)
    channels = _channels(state)
    if not channels:
        raise ValueError(_no_motion_module(entries, state))
    rows = {
        value.shape[1]
        for name, value in state.items()
        if name.endswith(".pos_encoder.pe") and value.ndim == 3
    }
    if len(rows) > 1:
        raise ValueError(
            f"the file's position tables differ in length ({', '.join(map(str, sorted(rows)))} rows); vgen "
            "has one length for all modules"
        )
    mid_block, num_positions = (
        any(name.startswith("mid_block.motion_modules.") for name in state),
        max(rows, default=0),
    )
    version = Version.SDXL if _of_sdxl(channels, unet) else _of_sd(mid_block, num_positions)
    return Layout(
        version=version,
        channels=channels,
        mid_block=mid_block,
        num_positions=num_positions,
        wrapper=found.wrapper,
        prefix=found.prefix,
        has_config=has_config,
        unread=found.unread,
    ), state


def _refuse_condition_encoder(state: Mapping[Any, Any]) -> None:
    if isinstance(state.get("controlnet"), Mapping):
        raise ValueError(
            "the file is a SparseCtrl condition encoder, not a motion module; its motion modules have one "
            "attention per block and belong to it alone"
        )


def _refuse_no_tensors(state: Mapping[Any, Any]) -> None:
    foreign = [
        str(name)
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if foreign:
        raise ValueError(f"the file holds entries that are no tensors: {listed(foreign)}")


def _no_motion_module(entries: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    kind = what_it_is(entries)
    said = f"the file is {kind} and" if kind else "the file"
    return (
        f"{said} holds no motion module (no down_blocks.0.motion_modules.0.{INNER}.norm.weight); "
        f"its entries are {listed(list(state)) or 'none'}"
    )


def _of_sdxl(channels: tuple[int, ...], unet: UNet2DConditionModel) -> bool:
    return channels == SDXL_CHANNELS or (
        len(channels) <= len(SDXL_CHANNELS) and unet.config["addition_embed_type"] == "text_time"
    )


def _of_sd(mid_block: bool, num_positions: int) -> Version:
    return Version.V2 if mid_block else Version.V3 if num_positions == 32 else Version.V1


def _channels(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Width of every level, read off the first module of each down block."""
    found = {
        int(m[1]): v
        for n, v in state.items()
        if (m := re.fullmatch(rf"down_blocks\.(\d+)\.motion_modules\.0\.{INNER}\.norm\.weight", n))
    }
    flat = [
        f"down_blocks.{level}.motion_modules.0.{INNER}.norm.weight"
        for level, weight in found.items()
        if weight.ndim != 1
    ]
    if flat:
        raise ValueError(
            f"the file's {listed(flat)} must be a row of numbers and is of other shape; it is damaged, "
            "fetch it again"
        )
    return tuple(len(found[level]) for level in sorted(found))


def _without_image_unet(
    state: dict[str, Tensor], unet: UNet2DConditionModel, notes: list[str]
) -> dict[str, Tensor]:
    """The original trainer saves the frozen image UNet along; it stays out, and a difference from ours is
    worth saying."""
    ours = unet.state_dict()
    image = [name for name in state if name in ours]
    if image:
        differ = sum(
            state[n].shape != ours[n].shape
            or not torch.allclose(state[n].float(), ours[n].float(), rtol=1e-2, atol=1e-3)
            for n in image
        )
        notes.append(
            f"left out {len(image)} tensors of the image UNet that the file carries, {differ} of which "
            "differ from the image model's"
        )
    return {name: value for name, value in state.items() if name not in ours}


def _check_tables(tables: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Tables are recomputed, so they must be the sinusoid; some people stretch or repeat them to lengthen
    clips."""
    tolerance = 4e-3  # bfloat16 rounds values near 1 by 2e-3
    for name, table in tables.items():
        attention = name.removesuffix(".pos_encoder.pe")
        if f"{attention}.to_q.weight" not in state:
            raise ValueError(f"the file has a position table {name} without its attention")
        if table.ndim != 3:
            raise ValueError(
                f"position table {name} has {table.ndim} dimensions where 3 are due; the file is damaged, "
                "fetch it again"
            )
        plain = positions(table.shape[1], state[f"{attention}.to_q.weight"][0].float())
        if table.shape != plain.shape or not torch.allclose(table.float(), plain, rtol=0, atol=tolerance):
            raise ValueError(
                f"position table {name} is not the sinusoid that vgen computes (stretched, repeated or "
                "learnt); "
                "it cannot be imported without changing the motion"
            )
