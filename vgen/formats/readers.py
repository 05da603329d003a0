"""What other programs will take a motion module file for: each tells versions apart by a few keys, and none of them says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from vgen.formats.animatediff import INNER, Version

PUBLISHED = {Version.SDXL: (320, 640, 1280)} | dict.fromkeys((Version.V1, Version.V2, Version.V3), (320, 640, 1280, 1280))
_FIRST_TABLE = f"down_blocks.0.motion_modules.0.{INNER}.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
_MIDDLE = f"mid_block.motion_modules.0.{INNER}.norm.bias"


class Reader(Enum):
    COMFYUI = "ComfyUI-AnimateDiff-Evolved"
    A1111 = "A1111 sd-webui-animatediff"
    DIFFUSERS = "diffusers from_single_file"


@dataclass(frozen=True, slots=True)
class Sight:
    """``version`` None means that the file is not recognised; ``loads`` that names and shapes are what that version has."""

    version: Version | None
    loads: bool
    remark: str

    def __str__(self) -> str:
        seen = self.version.value if self.version else "not recognised"
        return f"{seen}{'' if self.loads else ', does not load'}: {self.remark}"


def identify(state: Mapping[str, Tensor]) -> dict[Reader, Sight]:
    """How each reader identifies a state dict, by its own rule."""
    return {Reader.COMFYUI: _comfyui(state), Reader.A1111: _a1111(state), Reader.DIFFUSERS: _diffusers(state)}


def _comfyui(state: Mapping[str, Tensor]) -> Sight:
    """Highest down block, middle block, rows of any table, in this order; keys without "temporal" are dropped."""
    levels, rows = _levels(state), _rows(state)
    if "conv_in.weight" in state:
        return Sight(None, False, "a top-level conv_in makes it a PIA model")
    if levels not in (3, 4):
        return Sight(None, False, f"it finds {levels} down blocks, 4 mean SD 1.5 and 3 mean SDXL" + _prefix_remark(state))
    if not rows:
        return Sight(None, False, "without pos_encoder.pe it is taken for AnimateLCM")
    version = Version.SDXL if levels == 3 else Version.V2 if _has_middle(state) else Version.V3 if rows == 32 else Version.V1
    return _sight(state, version, f"{rows} frames at most")


def _a1111(state: Mapping[str, Tensor]) -> Sight:
    """Strict about every key; sets its own noise schedule by the version."""
    if any("temporal" not in name for name in state) or _prefix_remark(state):
        return Sight(None, False, "it refuses keys beyond the motion modules" + _prefix_remark(state))
    version = Version.V2 if _has_middle(state) else Version.SDXL if _levels(state) < 4 else Version.V3 if _rows(state) == 32 else Version.V1
    return _sight(
        state, version, "schedule set to scaled_linear .00085-.020" if version is Version.SDXL else "schedule set to linear .00085-.012"
    )


def _diffusers(state: Mapping[str, Tensor]) -> Sight:
    """Its rule without a config; given ``config=`` it asks nothing and loads any shape."""
    if _FIRST_TABLE not in state:
        return Sight(None, False, "without pos_encoder.pe it is taken for Stable Diffusion 1" + _prefix_remark(state))
    wide = state.get(f"up_blocks.2.motion_modules.0.{INNER}.norm.weight")
    if _MIDDLE in state:
        return _sight(state, Version.V2, "motion norms pool over the clip")
    if wide is None:
        return Sight(None, False, "it looks for up_blocks.2")
    rows = state[_FIRST_TABLE].shape[1]
    return _sight(
        state, Version.SDXL if wide.shape[-1] == 320 else Version.V1 if rows == 24 else Version.V3, "motion norms pool over the clip"
    )


def _sight(state: Mapping[str, Tensor], version: Version, remark: str) -> Sight:
    channels = tuple(
        len(state[name]) for name in sorted(state) if re.fullmatch(rf"down_blocks\.\d+\.motion_modules\.0\.{INNER}\.norm\.weight", name)
    )
    if channels == PUBLISHED[version]:
        return Sight(version, True, remark)
    return Sight(
        version,
        False,
        f"it expects {'/'.join(map(str, PUBLISHED[version]))} channels, the file has {'/'.join(map(str, channels)) or 'none'}",
    )


def _levels(state: Mapping[str, Tensor]) -> int:
    return max((int(m[1]) + 1 for name in state if (m := re.match(r"down_blocks\.(\d+)\.", name)) and "temporal" in name), default=0)


def _rows(state: Mapping[str, Tensor]) -> int:
    return next((value.shape[1] for name, value in state.items() if name.endswith("pos_encoder.pe")), 0)


def _has_middle(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("mid_block.") and "temporal" in name for name in state)


def _prefix_remark(state: Mapping[str, Tensor]) -> str:
    return " (every key starts with module.)" if state and all(name.startswith("module.") for name in state) else ""
