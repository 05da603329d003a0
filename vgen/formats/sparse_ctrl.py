"""diffusers' ``SparseControlNetModel`` folder, to and from a SparseCtrl net of vgen's, and the authors' file.

Law: ``read(write(s)) == s``. diffusers takes the statistics of the motion norms over the whole clip. The
first convolution's weight is only ever given zeros: it is not read, and an export writes the image UNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import SparseControlNetModel, UNet2DConditionModel
from torch import Tensor

from vgen.backbones.control_net import WIDTHS
from vgen.backbones.foreign_settings import read_settings
from vgen.formats import proof
from vgen.formats.animatediff import INNER
from vgen.formats.diffusers_motion import TABLE, their_tail
from vgen.formats.foreign import CARD_FILE, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.motion_names import Depth, Home, homes, listed, positions, shapes
from vgen.formats.state_file import Container

WEIGHTS, UNHEARD = "diffusion_pytorch_model.safetensors", "conv_in.weight"
CLASS, GROUPS, ATTENTIONS = "SparseControlNetModel", 32, 1
LATENTS, PICTURES = "frames", "scribble"
"""What the released ones are given: frames as latents, or scribbles as pictures."""
_EMBEDDING, _ROWS = "controlnet_cond_embedding.", ".pos_encoder.pe"


class SparseFolder(Foreign):
    """What its frames are given as stands in vgen's card; without one the net's kind says it."""

    name: ClassVar[str] = "sparsectrl"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def recognises(self, source: Source) -> bool:
        path = source.path / "config.json"
        return path.is_file() and f'"{CLASS}"' in path.read_text(encoding="utf-8", errors="replace")

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        arguments = read_settings(source.path / "config.json")
        knobs = _knobs(arguments, source.named)
        rows = knobs["motion"]["num_positions"]
        if num_positions not in (0, rows):
            raise ValueError(
                f"from={source.named} says itself that it has {rows} position rows, got "
                f"num_positions={num_positions}; leave it out"
            )
        state = source.file(source.path / WEIGHTS)[0]
        found = {name: value for name, value in state.items() if not TABLE.fullmatch(name)}
        return Imported(
            tensors=_fitting(found, unet, knobs, source.named),
            knobs=knobs,
            origin=f"diffusers' {CLASS}",
            notes=[],
            assumed=f"its frames are taken to be given as {knobs['condition']}, and its motion norms to pool "
            "over the clip as diffusers computes them; the published ones were trained with norm_scope frame",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {**_facts(knobs), "heads": knobs["motion"]["heads"]}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return _frames(knobs)

    def write(self, path: Path, learnt: Learnt) -> Rows:
        name, as_latents = learnt.knobs["condition"], learnt.knobs["condition"] == LATENTS
        _refuse_unwritable(learnt)
        state = export(learnt.tensors, learnt.unet, learnt.knobs)
        arguments = arguments_for(learnt.unet, learnt.knobs, learnt.model.vae_factor.bit_length() - 1)
        with torch.device("meta"):
            net = SparseControlNetModel(**arguments)
        net.load_state_dict(state, strict=True, assign=True)
        net.save_pretrained(path, safe_serialization=True)
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        (path / WEIGHTS).chmod((path / "config.json").stat().st_mode)
        written = Source(str(path), path).file(path / WEIGHTS)[0]
        own = {tail: value for tail, value in written.items() if not TABLE.fullmatch(tail)}
        again = import_(own, learnt.unet, name, as_latents)
        count = proof.same(dict(learnt.tensors), again, str(path))
        return [("read back", f"{count} tensors, equal to the bit; diffusers' own class has loaded them")]


class SparseFile(Foreign):
    """The authors' own file, ``v3_sd15_sparsectrl_rgb.ckpt``; it is only read, since diffusers' folder holds
    the same."""

    name: ClassVar[str] = "sparsectrl_file"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = ()

    def recognises(self, source: Source) -> bool:
        names = [] if source.is_folder else [str(name) for name in _unwrapped(source.file()[0])]
        embeds = any(name.startswith(_EMBEDDING) for name in names)
        return embeds and any(f".{INNER}." in name for name in names)

    def card(self, source: Source) -> str:
        return ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        state = _unwrapped(source.file()[0])
        rows = {len(value[0]) for name, value in state.items() if name.endswith(_ROWS)}
        simple = f"{_EMBEDDING}weight" in state
        motion = {
            "heads": 8,
            "num_attentions": ATTENTIONS,
            "num_positions": num_positions or max(rows, default=32),
            "norm_scope": "frame",
        }
        knobs = {"condition": LATENTS if simple else PICTURES, "motion": motion}
        found = {_diffusers_name(n): v for n, v in state.items() if isinstance(v, Tensor)}
        found = {name: value for name, value in found.items() if not name.endswith(_ROWS)}
        return Imported(
            tensors=_fitting(found, unet, knobs, source.named),
            knobs=knobs,
            origin="a SparseCtrl net by its authors' names",
            notes=[],
            assumed=f"its frames are taken to be given as {knobs['condition']}, and its motion modules to "
            "have 8 heads",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return _facts(knobs)

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return _frames(knobs)

    def write(self, path: Path, learnt: Learnt) -> Rows:
        raise ValueError(f"{self.name} is only read; give to={SparseFolder.name}, which holds the same")


def _unwrapped(entries: Mapping[str, Any]) -> Mapping[str, Any]:
    inside = entries.get("controlnet")
    return inside if isinstance(inside, Mapping) else entries


def _diffusers_name(name: str) -> str:
    if f".{INNER}." not in name:
        return name
    head, tail = name.split(f".{INNER}.", 1)
    return f"{head}.{their_tail(tail)}"


def _facts(knobs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "reads latents": knobs["condition"] == LATENTS,
        "positions": knobs["motion"]["num_positions"],
    }


def _frames(knobs: Mapping[str, Any]) -> int:
    return min(proof.FRAMES, knobs["motion"]["num_positions"])


def _fitting(
    found: Mapping[str, Tensor], unet: UNet2DConditionModel, knobs: Mapping[str, Any], named: str
) -> dict[str, Tensor]:
    """vgen's names and tensors for diffusers' ``found``. Raises ValueError where they are of another image
    model."""
    blocks = {name.split(".")[2] for name in found if name.startswith(f"{_EMBEDDING}blocks.")}
    _refuse_other(found, arguments_for(unet, knobs, len(blocks) // 2), named)
    return import_(found, unet, knobs["condition"], knobs["condition"] == LATENTS)


def import_(
    state: Mapping[str, Tensor], unet: UNet2DConditionModel, net: str, as_latents: bool
) -> dict[str, Tensor]:
    """diffusers' names to those of the net called ``net``."""
    over_frames = {theirs: ours for ours, theirs in _motion_names(unet, net).items()}
    out = {}
    for name, value in state.items():
        if as_latents and name.startswith(_EMBEDDING):
            out[f"{net}.control_net.{_EMBEDDING}conv_out.{name.removeprefix(_EMBEDDING)}"] = value
        elif name != UNHEARD:
            out[over_frames.get(name, f"{net}.control_net.{name}")] = value
    return out


def export(
    tensors: Mapping[str, Tensor], unet: UNet2DConditionModel, knobs: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The inverse of :func:`import_`, with position tables."""
    net, rows = knobs["condition"], knobs["motion"]["num_positions"]
    over_frames, begin = _motion_names(unet, net), f"{net}.control_net."
    out = {}
    for name, value in tensors.items():
        bare = over_frames.get(name, name.removeprefix(begin))
        if net == LATENTS:
            bare = bare.replace(f"{_EMBEDDING}conv_out.", _EMBEDDING)
        out[bare] = value
        if name in over_frames and bare.endswith(".norm1.weight"):
            table = positions(rows, value.float()).to(value)
            out[bare.replace(".norm1.weight", ".pos_embed.pe")] = table
    any_value = next(iter(tensors.values()))
    return out | {UNHEARD: unet.conv_in.weight.detach().to(any_value.dtype)}


def _motion_names(unet: UNet2DConditionModel, net: str) -> dict[str, str]:
    """vgen's names of what acts over frames to diffusers'."""
    out = {}
    for home in _homes(unet):
        place = home.sidecar.replace("unet.", f"{net}.", 1)
        for tail in shapes(home.channels, Depth(1, ATTENTIONS)):
            out[f"{place}.{INNER}.{tail}"] = f"{home.original}.{their_tail(tail)}"
    return out


def _homes(unet: UNet2DConditionModel) -> list[Home]:
    return [home for home in homes(unet) if home.original.startswith("down_blocks.")]


def arguments_for(unet: UNet2DConditionModel, knobs: Mapping[str, Any], halvings: int) -> dict[str, Any]:
    """``SparseControlNetModel``'s arguments for the image UNet's shapes and the recipe's knobs."""
    same = (
        *("in_channels", "flip_sin_to_cos", "freq_shift", "only_cross_attention", "block_out_channels"),
        *("layers_per_block", "downsample_padding", "mid_block_scale_factor", "act_fn", "norm_num_groups"),
        *("norm_eps", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim"),
        *("num_attention_heads", "use_linear_projection", "upcast_attention", "resnet_time_scale_shift"),
    )
    as_latents = knobs["condition"] == LATENTS
    widths = WIDTHS[: halvings + 1] + WIDTHS[-1:] * (halvings + 1 - len(WIDTHS))
    return {
        **{name: unet.config[name] for name in same},
        "down_block_types": [
            "CrossAttnDownBlockMotion" if "CrossAttn" in kind else "DownBlockMotion"
            for kind in unet.config["down_block_types"]
        ],
        "conditioning_channels": unet.config["in_channels"] if as_latents else 3,
        "conditioning_embedding_out_channels": widths,
        "use_simplified_condition_embedding": as_latents,
        "motion_max_seq_length": knobs["motion"]["num_positions"],
        "motion_num_attention_heads": knobs["motion"]["heads"],
    }


def _knobs(arguments: Mapping[str, Any], named: str) -> dict[str, Any]:
    """The recipe's, as a folder's configuration implies them."""
    heads, rows = arguments.get("motion_num_attention_heads", 8), arguments.get("motion_max_seq_length", 32)
    if not isinstance(heads, int) or not isinstance(rows, int) or min(heads, rows) < 1:
        raise ValueError(
            f"{named} has motion_num_attention_heads={heads} and motion_max_seq_length={rows}; vgen reads "
            "one whole number each"
        )
    if not arguments.get("concat_conditioning_mask", True):
        raise ValueError(
            f"{named} has no mask channel (concat_conditioning_mask=false), so it can't tell given frames "
            "from others; give one with a mask, as the published ones"
        )
    simple = arguments.get("use_simplified_condition_embedding", True)
    motion = {"heads": heads, "num_attentions": ATTENTIONS, "num_positions": rows, "norm_scope": "clip"}
    return {"condition": LATENTS if simple else PICTURES, "motion": motion}


def _refuse_other(found: Mapping[str, Tensor], arguments: Mapping[str, Any], named: str) -> None:
    """Raises ValueError where names or shapes are not those of the image model's SparseCtrl net."""
    with torch.device("meta"):
        wanted = SparseControlNetModel(**arguments).state_dict()
    shaped = {name: value for name, value in wanted.items() if not TABLE.fullmatch(name)}
    faults = [f"{name} is missing" for name in shaped if name not in found]
    faults += [f"{name} is unknown" for name in found if name not in shaped]
    for name in (name for name in shaped if name in found):
        if found[name].shape != shaped[name].shape:
            faults.append(f"{name} is {tuple(found[name].shape)} for {tuple(shaped[name].shape)}")
    if faults:
        raise ValueError(
            f"{named} belongs to another image model: {len(faults)} of {len(shaped)} tensors differ "
            f"({listed(faults[:3])}); give the backbone= that it was trained on"
        )


def _refuse_unwritable(learnt: Learnt) -> None:
    """Raises ValueError where diffusers' class can't hold it."""
    motion, groups = learnt.knobs["motion"], learnt.unet.config["norm_num_groups"]
    if motion["num_attentions"] != ATTENTIONS or motion["num_blocks"] != 1 or groups != GROUPS:
        raise ValueError(
            f"diffusers' {CLASS} has {ATTENTIONS} attention over frames in 1 block and {GROUPS} groups in "
            f"its norms, this net has {motion['num_attentions']} in {motion['num_blocks']} and {groups}; "
            "keep it as vgen's"
        )
