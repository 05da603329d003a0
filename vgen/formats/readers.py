"""What other programs will take a motion module file for: each tells versions apart by a few keys, and none
of them says so; and what they must be told, because no file of the layout can say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from vgen.formats.animatediff import INNER, SDXL_CHANNELS, Layout, Version, implied

PUBLISHED = {Version.SDXL: SDXL_CHANNELS} | dict.fromkeys(
    (Version.V1, Version.V2, Version.V3), (320, 640, 1280, 1280)
)
ROWS = {Version.V1: 24, Version.V2: 32, Version.V3: 32, Version.SDXL: 32}
_COMFYUI_BETAS = {
    ("linear", 0.00085, 0.012, 1000): "sqrt_linear (AnimateDiff)",
    ("scaled_linear", 0.00085, 0.02, 1000): "linear (AnimateDiff-SDXL)",
    ("scaled_linear", 0.00085, 0.012, 1000): "linear (HotshotXL/default)",
}
_FIRST_TABLE = (
    f"down_blocks.0.motion_modules.0.{INNER}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
)
_MIDDLE = f"mid_block.motion_modules.0.{INNER}.norm.bias"


class Reader(Enum):
    COMFYUI = "ComfyUI-AnimateDiff-Evolved"
    A1111 = "A1111 sd-webui-animatediff"
    DIFFUSERS = "diffusers from_single_file"


@dataclass(frozen=True, slots=True)
class Sight:
    """``version`` None means that the file is not recognised; ``loads`` that names and shapes are what that
    version has."""

    version: Version | None
    loads: bool
    remark: str

    def __str__(self) -> str:
        seen = self.version.value if self.version else "not recognised"
        return f"{seen}{'' if self.loads else ', does not load'}: {self.remark}"


def identify(state: Mapping[str, Tensor]) -> dict[Reader, Sight]:
    """How each reader identifies a state dict, by its own rule."""
    return {Reader.COMFYUI: _comfyui(state), Reader.A1111: _a1111(state), Reader.DIFFUSERS: _diffusers(state)}


def unsaid(layout: Layout, motion: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, str]:
    """What readers of a file of this ``layout`` take otherwise than the recipe's ``motion`` and ``schedule``
    have it, and where each of them can be told; empty for a module with the published knobs."""
    heads, attentions, blocks, rows = (
        motion[knob] for knob in ("heads", "num_attentions", "num_blocks", "num_positions")
    )
    kinds, fixed = ", ".join(["Temporal_Self"] * attentions), "ComfyUI and A1111 always have"
    usual, usually = ROWS[layout.version], implied(layout)["schedule"]
    found = {
        "attention heads": (
            heads,
            8,
            _told("num_attention_heads", heads, "motion_num_attention_heads"),
            f"{fixed} 8",
        ),
        "attentions per block": (
            attentions,
            2,
            _told("attention_block_types", f"[{kinds}]"),
            f"diffusers, {fixed} 2",
        ),
        "blocks per module": (
            blocks,
            1,
            _told("num_transformer_block", blocks, "motion_transformer_layers_per_block"),
            f"{fixed} 1",
        ),
        "position rows": (
            rows,
            usual,
            _told("temporal_position_encoding_max_len", rows, "motion_max_seq_length"),
            f"ComfyUI finds them in the file, A1111 expects {usual}",
        ),
        "noise schedule": (
            _betas(schedule),
            _betas(usually),
            _schedule_told(schedule),
            "A1111 can't be told",
        ),
    }
    return {
        what: f"{ours}, where AnimateDiff {layout.version.value} has {theirs}: set {told}; {rest}"
        for what, (ours, theirs, told, rest) in found.items()
        if ours != theirs
    }


def _told(name: str, value: Any, diffusers: str = "") -> str:
    also = f" and {diffusers}={value} in diffusers' MotionAdapter" if diffusers else ""
    return f"motion_module_kwargs.{name}={value} in AnimateDiff's own configuration{also}"


def _schedule_told(schedule: Mapping[str, Any]) -> str:
    betas, start, end, steps = (
        schedule[knob] for knob in ("betas", "beta_start", "beta_end", "num_timesteps")
    )
    known = _COMFYUI_BETAS.get((betas, start, end, steps))
    comfyui = f"beta_schedule={known!r} in ComfyUI" if known else "ComfyUI has no such beta_schedule"
    given = f"beta_schedule={betas}, beta_start={start:g}, beta_end={end:g}, num_train_timesteps={steps}"
    return f"{given} in diffusers' scheduler and in AnimateDiff's noise_scheduler_kwargs, {comfyui}"


def _betas(schedule: Mapping[str, Any]) -> str:
    return (
        f"{schedule['betas']} {schedule['beta_start']:g}-{schedule['beta_end']:g} in "
        f"{schedule['num_timesteps']} steps"
    )


def _comfyui(state: Mapping[str, Tensor]) -> Sight:
    """Highest down block, middle block, rows of any table, in this order; keys without "temporal" are
    dropped."""
    levels, rows = _levels(state), _rows(state)
    if "conv_in.weight" in state:
        return Sight(None, False, "a top-level conv_in makes it a PIA model")
    if levels not in (3, 4):
        return Sight(
            None,
            False,
            f"it finds {levels} down blocks, 4 mean SD 1.5 and 3 mean SDXL" + _prefix_remark(state),
        )
    if not rows:
        return Sight(None, False, "without pos_encoder.pe it is taken for AnimateLCM")
    version = (
        Version.SDXL
        if levels == 3
        else Version.V2
        if _has_middle(state)
        else Version.V3
        if rows == 32
        else Version.V1
    )
    return _sight(state, version, f"{rows} frames at most")


def _a1111(state: Mapping[str, Tensor]) -> Sight:
    """Strict about every key; sets its own noise schedule by the version."""
    if any("temporal" not in name for name in state) or _prefix_remark(state):
        return Sight(None, False, "it refuses keys beyond the motion modules" + _prefix_remark(state))
    version = (
        Version.V2
        if _has_middle(state)
        else Version.SDXL
        if _levels(state) < 4
        else Version.V3
        if _rows(state) == 32
        else Version.V1
    )
    return _sight(
        state,
        version,
        "schedule set to scaled_linear .00085-.020"
        if version is Version.SDXL
        else "schedule set to linear .00085-.012",
    )


def _diffusers(state: Mapping[str, Tensor]) -> Sight:
    """Its rule without a config; given ``config=`` it asks nothing and loads any shape."""
    if _FIRST_TABLE not in state:
        return Sight(
            None, False, "without pos_encoder.pe it is taken for Stable Diffusion 1" + _prefix_remark(state)
        )
    wide = state.get(f"up_blocks.2.motion_modules.0.{INNER}.norm.weight")
    if _MIDDLE in state:
        return _sight(state, Version.V2, "motion norms pool over the clip")
    if wide is None:
        return Sight(None, False, "it looks for up_blocks.2")
    rows = state[_FIRST_TABLE].shape[1]
    return _sight(
        state,
        Version.SDXL if wide.shape[-1] == 320 else Version.V1 if rows == 24 else Version.V3,
        "motion norms pool over the clip",
    )


def _sight(state: Mapping[str, Tensor], version: Version, remark: str) -> Sight:
    channels = tuple(
        len(state[name])
        for name in sorted(state)
        if re.fullmatch(rf"down_blocks\.\d+\.motion_modules\.0\.{INNER}\.norm\.weight", name)
    )
    if channels == PUBLISHED[version]:
        return Sight(version, True, remark)
    return Sight(
        version,
        False,
        f"it expects {'/'.join(map(str, PUBLISHED[version]))} channels, the file has "
        f"{'/'.join(map(str, channels)) or 'none'}",
    )


def _levels(state: Mapping[str, Tensor]) -> int:
    return max(
        (
            int(m[1]) + 1
            for name in state
            if (m := re.match(r"down_blocks\.(\d+)\.", name)) and "temporal" in name
        ),
        default=0,
    )


def _rows(state: Mapping[str, Tensor]) -> int:
    return next((value.shape[1] for name, value in state.items() if name.endswith("pos_encoder.pe")), 0)


def _has_middle(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("mid_block.") and "temporal" in name for name in state)


def _prefix_remark(state: Mapping[str, Tensor]) -> str:
    return (
        " (every key starts with module.)"
        if state and all(name.startswith("module.") for name in state)
        else ""
    )
