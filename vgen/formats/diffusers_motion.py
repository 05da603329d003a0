"""diffusers' ``MotionAdapter`` folder, to and from vgen's sidecar. Law: ``import_(export(s)) == s``.

diffusers takes the statistics of the motion norms over the whole clip and of the image norms per frame; a
folder cannot say otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models import MotionAdapter, UNet2DConditionModel
from torch import Tensor

from vgen.formats import model_folder
from vgen.formats.animatediff import INNER
from vgen.formats.foreign import Imported
from vgen.formats.motion_names import Depth, homes, positions, refuse_difference, shapes
from vgen.formats.wrapping import unwrapped

OURS_TO_THEIRS = {
    "attention_blocks.0": "attn1",
    "attention_blocks.1": "attn2",
    "norms.0": "norm1",
    "norms.1": "norm2",
    "ff_norm": "norm3",
}
TABLE = re.compile(r".*\.transformer_blocks\.\d+\.pos_embed\.pe")
WEIGHTS = f"{model_folder.STEM}.safetensors"
"""What is written."""
ATTENTIONS = 2  # diffusers' motion block knows no other number


def recognises(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and '"MotionAdapter"' in path.read_text(encoding="utf-8", errors="replace")


def config(unet: UNet2DConditionModel, motion: Mapping[str, Any], mid_block: bool) -> dict[str, Any]:
    """``MotionAdapter``'s arguments for the image UNet's shapes and the recipe's ``motion`` knobs."""
    if motion["num_attentions"] != ATTENTIONS:
        raise ValueError(
            f"diffusers' motion module has {ATTENTIONS} temporal attentions per block, "
            f"the adapter has {motion['num_attentions']}; export it to=animatediff"
        )
    layers = unet.config["layers_per_block"]
    return {
        "block_out_channels": list(unet.config["block_out_channels"]),
        "motion_layers_per_block": layers if isinstance(layers, int) else list(layers),
        "motion_mid_block_layers_per_block": max(1, sum(home.in_middle for home in homes(unet))),
        "use_motion_mid_block": mid_block,
        "motion_transformer_layers_per_block": motion["num_blocks"],
        "motion_transformer_layers_per_mid_block": motion["num_blocks"],
        "motion_num_attention_heads": motion["heads"],
        "motion_norm_num_groups": unet.config["norm_num_groups"],
        "motion_max_seq_length": motion["num_positions"],
    }


def export(
    tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Sidecar to diffusers' names, position tables included. Raises ValueError where the tensors are not what
    ``arguments`` describe."""
    names = _names(unet, arguments)
    refuse_difference(tensors, {ours: shape for ours, (_, shape) in names.items()}, "the adapter")
    out = {theirs: tensors[ours] for ours, (theirs, _) in names.items()}
    for name in list(out):
        if name.endswith(".norm1.weight"):
            out[name.replace(".norm1.weight", ".pos_embed.pe")] = positions(
                arguments["motion_max_seq_length"], out[name].float()
            )
    return out


def import_(
    state: Mapping[str, Tensor], arguments: Mapping[str, Any], unet: UNet2DConditionModel
) -> Imported:
    """diffusers' names to the sidecar of ``unet``.

    Raises ValueError where the folder is of other shapes, holds more than motion modules, or lacks some.
    """
    channels, heads = tuple(arguments["block_out_channels"]), arguments.get("motion_num_attention_heads", 8)
    own = tuple(unet.config["block_out_channels"])
    if channels != own:
        raise ValueError(
            f"the motion adapter is for {channels} channels, the image model has {own}; "
            "give the backbone= it was trained on"
        )
    kinds = set(heads) if isinstance(heads, (list, tuple)) else {heads}
    if len(kinds) > 1:
        raise ValueError(
            f"the motion adapter has different numbers of heads per level ({heads}); vgen's motion modules "
            "have one number of heads"
        )
    names = _names(unet, arguments)
    learnt = {name: value for name, value in state.items() if not TABLE.fullmatch(name)}
    refuse_difference(learnt, dict(names.values()), "the motion adapter")
    knobs = {
        "motion": {
            "heads": kinds.pop(),
            "num_blocks": _num_blocks(arguments),
            "num_attentions": ATTENTIONS,
            "num_positions": arguments.get("motion_max_seq_length", 32),
            "norm_scope": "clip",
        },
        "mid_block": arguments.get("use_motion_mid_block", True),
        "image_norm_scope": "frame",
    }
    assumed = (
        "motion norms pool over the clip, as diffusers computes them; modules that were trained elsewhere "
        "(all published AnimateDiff "
        "ones) had norm_scope frame"
    )
    origin = (
        f"diffusers MotionAdapter: {'/'.join(map(str, channels))} channels, "
        f"{'a' if knobs['mid_block'] else 'no'} middle block, "
        f"{knobs['motion']['num_positions']} position rows"
    )
    tensors = {ours: state[theirs] for ours, (theirs, _) in names.items()}
    return Imported(tensors=tensors, knobs=knobs, origin=origin, notes=[], assumed=assumed)


def write(
    folder: Path, tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, arguments: Mapping[str, Any]
) -> None:
    """Let diffusers itself write the folder, so that configuration and names are those of the installed
    version."""
    state = export(tensors, unet, arguments)
    with torch.device("meta"):
        adapter = MotionAdapter(**arguments)
    adapter.load_state_dict(state, strict=True, assign=True)
    adapter.save_pretrained(folder, safe_serialization=True)
    (folder / WEIGHTS).chmod(
        (folder / "config.json").stat().st_mode
    )  # diffusers leaves the weights readable by their owner alone


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and configuration of a folder; raises ValueError where it is not a motion adapter."""
    path = folder / "config.json"
    arguments = _arguments(path) if path.is_file() else {}
    if arguments.get("_class_name") != "MotionAdapter":
        raise ValueError(
            f"{folder} is no diffusers MotionAdapter: {path.name} names "
            f"{arguments.get('_class_name', 'nothing')}; "
            "give the folder that holds its config.json"
        )
    weights = model_folder.found(folder)
    if weights is None:
        raise ValueError(
            f"{folder} holds no weights: none of {WEIGHTS}, {model_folder.STEM}.bin, a variant or an index"
        )
    _check(path, arguments)
    return unwrapped(model_folder.read(weights)[0]).state, arguments


def _arguments(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold names and values, got {str(found)[:40]}; fetch it again")
    return found


def _check(path: Path, arguments: Mapping[str, Any]) -> None:
    """The arguments that are read here are of the kind that diffusers writes."""

    def numbers(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(v, int) for v in value)

    def number(value: Any) -> bool:
        return isinstance(value, int) and value > 0

    heads, rows = arguments.get("motion_num_attention_heads", 8), arguments.get("motion_max_seq_length", 32)
    sound = {
        "block_out_channels": numbers(arguments.get("block_out_channels")),
        "motion_num_attention_heads": number(heads) or numbers(heads),
        "motion_max_seq_length": number(rows),
        "use_motion_mid_block": isinstance(arguments.get("use_motion_mid_block", True), bool),
    }
    wrong = [name for name, right in sound.items() if not right]
    if wrong:
        raise ValueError(
            f"{path} lacks {', '.join(wrong)}, or they are not what diffusers writes there; fetch it again"
        )


def _num_blocks(arguments: Mapping[str, Any]) -> int:
    blocks = arguments.get("motion_transformer_layers_per_block", 1)
    if not isinstance(blocks, int):
        raise ValueError(
            f"the motion adapter has transformer layers {blocks} per level; vgen's motion modules have one "
            "number of blocks"
        )
    return blocks


def _names(
    unet: UNet2DConditionModel, arguments: Mapping[str, Any]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Sidecar name to diffusers' name and shape."""
    out = {}
    for home in homes(unet):
        if arguments.get("use_motion_mid_block", True) or not home.in_middle:
            for tail, shape in shapes(home.channels, Depth(_num_blocks(arguments), ATTENTIONS)).items():
                out[f"{home.sidecar}.{INNER}.{tail}"] = (f"{home.original}.{their_tail(tail)}", shape)
    return out


def their_tail(tail: str) -> str:
    """diffusers' name for a tensor inside a motion module."""
    return re.sub(r"(attention_blocks\.\d|norms\.\d|ff_norm)(?=\.)", lambda m: OURS_TO_THEIRS[m[1]], tail)
