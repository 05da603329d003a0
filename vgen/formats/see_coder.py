"""SeeCoder's released files, ``ctx.image.*``, to and from a SeeCoder of vgen's. Law: ``read(write(s)) == s``.

They differ in the Swin transformer: the authors' holds queries, keys and values in one tensor, an index that
follows from the window, and a norm of its finest stage that nothing reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.see_coder import SeeCoderSpec, see_coder
from vgen.formats import proof, state_file
from vgen.formats.foreign import CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

PREFIX = "ctx.image."
QUERIES, PLACES = "qtransformer.init_query.weight", "qtransformer.pe_layer.mlp.0.weight"
GLOBAL = 4
"""Released queries that see no picture; a file holds them and the others in one tensor."""
_QKV = ("q_proj", "k_proj", "v_proj")
_BLOCK = r"layers\.(?P<level>\d+)\.blocks\.(?P<block>\d+)\."
_UNREAD = re.compile(r"^imencoder\.(norm0\.(weight|bias)|layers\..*\.relative_position_index)$")
_PAIRS = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("patch_embed.norm.", "embeddings.norm."),
    ("layers.", "encoder.layers."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
    (".attn.qkv.", ".attention.qkv."),
    (".attn.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
)
"""Parts of names, theirs and transformers'."""


class SeeCoderFile(Foreign):
    """``component`` is what the SeeCoder is called in vgen's own tensors."""

    name: ClassVar[str] = "see_coder"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def __init__(self, component: str) -> None:
        self.component = component

    def recognises(self, source: Source) -> bool:
        return not source.is_folder and any(str(name).endswith(QUERIES) for name in source.file()[0])

    def card(self, source: Source) -> str:
        return source.file()[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        if num_positions:
            raise ValueError(
                f"from={source.named} is a SeeCoder, which knows no positions of frames, got "
                f"num_positions={num_positions}; leave it out"
            )
        state = _own_part(source.file()[0])
        knobs = _knobs(state)
        found = import_(state)
        with torch.device("meta"):
            wanted = see_coder(unet, SeeCoderSpec(**knobs)).state_dict()
        _refuse_other(found, wanted, source.named)
        return Imported(
            tensors={f"{self.component}.{name}": value for name, value in found.items()},
            knobs={"encoder": knobs},
            origin=f"a SeeCoder of {len(found)} tensors, {len(state[QUERIES])} tokens a picture",
            notes=[],
            assumed=f"{GLOBAL} of its queries are taken to be global, as in every released one",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        own = knobs["encoder"]
        number = own["global_queries"] + own["local_queries"]
        same = {name: own[name] for name in ("depths", "window", "decoder_layers", "query_layers")}
        return {**same, "tokens a picture": number, "position aware": own["position_aware"]}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        begin = f"{self.component}."
        own = {name.removeprefix(begin): value for name, value in learnt.tensors.items()}
        state = {f"{PREFIX}{name}": value for name, value in export(own).items()}
        container = Container(path.suffix.removeprefix("."))
        state_file.write(path, state, container, {CARD_KEY: learnt.card_text()})
        back, _ = state_file.read(path)
        count = proof.same(own, import_(_own_part(back)), str(path))
        return [("read back", f"{count} tensors, equal to the bit")]


def import_(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released names, without their prefix, to vgen's."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if not _UNREAD.match(name):
            out |= _split(_own_name(name), value)
    return out


def export(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`import_`; what it leaves out is made anew."""
    out: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", part)] for part in _QKV]
            out[_their_name(name.replace("q_proj", "qkv"))] = torch.cat(parts)
        elif not any(f".{part}." in name for part in _QKV):
            out[_their_name(name)] = value
    return out | _unread(out)


def _unread(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the authors' strict loading wants beside what is read."""
    bias = state["imencoder.patch_embed.norm.bias"]
    out = {"imencoder.norm0.weight": torch.ones_like(bias), "imencoder.norm0.bias": torch.zeros_like(bias)}
    for name, value in state.items():
        if name.endswith("relative_position_bias_table"):
            index = _places(_window(value))
            out[name.replace("relative_position_bias_table", "relative_position_index")] = index
    return out


def _places(window: int) -> Tensor:
    """The row of the table for every pair of patches of a window, (w w) (w w)."""
    at = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = at[:, None] - at[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def _split(name: str, value: Tensor) -> dict[str, Tensor]:
    if ".attention.qkv." not in name:
        return {name: value}
    return {name.replace("qkv", part): one.clone() for part, one in zip(_QKV, value.chunk(3), strict=True)}


def _own_name(name: str) -> str:
    if name.startswith("imdecoder.lateral_layers."):
        level, rest = name.removeprefix("imdecoder.lateral_layers.").split(".", 1)
        rest = f"1.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"0.{rest}"
        return f"imdecoder.lateral_layers.{level}.{rest}"
    if not name.startswith("imencoder."):
        return name
    bare = name.removeprefix("imencoder.")
    norm = re.match(r"^norm(\d+)\.(\w+)$", bare)
    if norm:
        return f"swin.hidden_states_norms.stage{int(norm[1]) + 1}.{norm[2]}"
    for theirs, own in _PAIRS:
        bare = bare.replace(theirs, own)
    return f"swin.swin.{bare}"


def _their_name(name: str) -> str:
    lateral = re.match(r"^(imdecoder\.lateral_layers\.\w+)\.([01])\.(\w+)$", name)
    if lateral:
        return f"{lateral[1]}.{'norm.' if lateral[2] == '1' else ''}{lateral[3]}"
    norm = re.match(r"^swin\.hidden_states_norms\.stage(\d+)\.(\w+)$", name)
    if norm:
        return f"imencoder.norm{int(norm[1]) - 1}.{norm[2]}"
    if not name.startswith("swin.swin."):
        return name
    bare = name.removeprefix("swin.swin.")
    for theirs, own in _PAIRS:
        bare = bare.replace(own, theirs)
    return f"imencoder.{bare}"


def _own_part(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """The SeeCoder's tensors of a file, which may hold a whole system."""
    inside = any(name.startswith(PREFIX) for name in entries)
    return {n.removeprefix(PREFIX): v for n, v in entries.items() if n.startswith(PREFIX) or not inside}


def _knobs(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes as the names and shapes show them."""
    blocks = [m for m in map(re.compile(rf"^imencoder\.{_BLOCK}attn\.qkv\.weight$").match, state) if m]
    depths = [sum(int(m["level"]) == level for m in blocks) for level in range(4)]
    tables = [value for name, value in state.items() if name.endswith("relative_position_bias_table")]
    local = len(state[QUERIES]) - GLOBAL if QUERIES in state else 0
    layers = {
        "decoder_layers": _count(state, r"imdecoder\.transformer\.layers\.(\d+)\."),
        "query_layers": _count(state, r"qtransformer\.transformer_selfatt_layers\.(\d+)\."),
    }
    if not tables or min(*depths, *layers.values(), local) < 1:
        raise ValueError(
            f"the file is no whole SeeCoder: it has {depths} backbone blocks, {layers['decoder_layers']} "
            f"decoder and {layers['query_layers']} query layers and {max(local, 0)} local queries; give a "
            "file as released, as seecoder-v1-0.safetensors"
        )
    sizes = {
        "depths": depths,
        "window": _window(tables[0]),
        **layers,
        "global_queries": GLOBAL,
        "local_queries": local,
    }
    return {**sizes, "position_aware": PLACES in state}


def _window(table: Tensor) -> int:
    """Patches a side, of a table with a row for every distance."""
    return (math.isqrt(len(table)) + 1) // 2


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    found = map(re.compile(pattern).match, state)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _refuse_other(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], named: str) -> None:
    """Raises ValueError where names or shapes are not exactly those of the image model's SeeCoder."""
    faults = [f"no {name}" for name in wanted if name not in found]
    faults += [f"{name}, which no SeeCoder has" for name in found if name not in wanted]
    for name in (name for name in wanted if name in found):
        if found[name].shape != wanted[name].shape:
            faults.append(f"{name} of {tuple(found[name].shape)} for {tuple(wanted[name].shape)}")
    if faults:
        raise ValueError(
            f"{named} is no SeeCoder for this image model: {len(faults)} of {len(wanted)} tensors differ "
            f"(first: {'; '.join(faults[:3])}); give a released file, and the image model that it is for"
        )
