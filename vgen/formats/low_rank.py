"""Files of low-rank layers, to and from what vgen's adapters hold.

Laws: ``read`` of what was written is what was written; every tensor of a file is accounted for, or the file
is refused with counts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from vgen.backbones.sites import INSERTED
from vgen.backbones.video_unet import address
from vgen.formats.low_rank_names import UNET, Place, Places, parted
from vgen.formats.motion_names import listed
from vgen.formats.wrapping import inside, what_it_is

LORA = "lora"
"""What low-rank layers are called at their sites."""
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a Tucker form",
    "oft_": "OFT",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One layer: its place, and ``down`` r i (h w), ``up`` o r (1 1). ``alpha`` over r is its scale."""

    place: Place
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)


def recognises(names: Iterable[str]) -> bool:
    """Whether they are names of low-rank layers, of whatever naming."""
    return any(found is not None and found.part != "alpha" for found in map(parted, names))


def read(
    entries: Mapping[str, Any], nets: Mapping[str, nn.Module], metadata: Mapping[str, str]
) -> list[Pair]:
    """The layers of a file for the nets of an image model, which are the UNet and its text encoders.

    Raises ValueError with counts where names match nothing, shapes are of another image model, a pair lacks
    its half, or the layers are no low-rank pairs.
    """
    state = _unwrapped(entries)
    modules = _by_module(state)
    places = Places(nets)
    found = {module: places.find(module) for module in modules}
    _refuse_unmatched(found)
    alphas = _Alphas(metadata)
    pairs, wrong = [], []
    for module, parts in modules.items():
        place = found[module]
        assert place is not None  # others were refused
        pair = _pair(module, place, parts, alphas)
        fits = _fitted(pair, nets)
        if isinstance(fits, str):
            wrong.append(f"{module}: {fits}")
        else:
            pairs.append(fits)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of its {len(modules)} low-rank layers have other shapes than the image model's "
            f"(first: {wrong[0]}); it was made for another family of image models"
        )
    return pairs


def names_of(entries: Mapping[str, Any]) -> list[str]:
    """The names of a file's tensors, without its wrapping; a foreign file can have numbers for names."""
    return [name for name in _unwrapped(entries) if isinstance(name, str)]


def _unwrapped(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in inside(entries).state.items() if isinstance(value, Tensor)}


def _by_module(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Module by its name in the file, to its parts."""
    kinds = {kind for name in state for mark, kind in OTHER_KINDS.items() if mark in name}
    if kinds:
        raise ValueError(
            f"it holds {' and '.join(sorted(kinds))}, which are no low-rank pairs; vgen reads LoRA, also of "
            "convolutions (LoCon): have it converted"
        )
    out: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, value in state.items():
        found = parted(name)
        if found is None:
            strange.append(name)
        else:
            out.setdefault(found.module, {})[found.part] = value
    if strange or not out:
        raise ValueError(
            f"{len(strange)} of its {len(state)} tensors belong to no low-rank layer (first: "
            f"{listed(strange[:3]) or 'none'}); give a file of LoRA layers alone"
        )
    halves = [module for module, parts in out.items() if not {"down", "up"} <= parts.keys()]
    if halves:
        kind = what_it_is(state) or "a LoRA"
        raise ValueError(
            f"it is {kind} of which {len(halves)} of {len(out)} low-rank layers lack their down "
            f"or up half (first: {halves[0]}); the file is cut, fetch it again"
        )
    return out


def _refuse_unmatched(found: Mapping[str, Place | None]) -> None:
    lost = [module for module, place in found.items() if place is None]
    if lost:
        raise ValueError(
            f"{len(lost)} of its {len(found)} low-rank layers match nothing in the image model (first: "
            f"{listed(lost[:3])}); it was made for another family of image models, or is no LoRA of one"
        )


class _Alphas:
    """What a file's metadata says of alpha, as diffusers writes it."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.said: dict[str, Any] = json.loads(metadata.get("lora_adapter_metadata", "{}"))

    def of(self, place: Place, rank: int) -> float:
        """``rank`` where nothing is said: the pair as it is."""
        net = place.into.partition(".")[0]
        alpha = self.said.get(f"{net}.lora_alpha")
        for pattern, value in (self.said.get(f"{net}.alpha_pattern") or {}).items():
            if re.search(rf"(^|\.){pattern}$", place.path):
                alpha = value
        if alpha is None:
            return float(rank)
        return float(alpha) * (math.sqrt(rank) if self.said.get(f"{net}.use_rslora") else 1.0)


def _pair(module: str, place: Place, parts: Mapping[str, Tensor], alphas: _Alphas) -> Pair:
    down, up = parts["down"], parts["up"]
    alpha = float(parts["alpha"]) if "alpha" in parts else alphas.of(place, len(down))
    if up.ndim < 2 or down.ndim < 2 or up.shape[1] != len(down):
        raise ValueError(
            f"the low-rank layer {module} has halves of ranks {up.shape[1:2]} and {down.shape[:1]}; the file "
            "is damaged"
        )
    return Pair(place, down, up, alpha)


def _fitted(pair: Pair, nets: Mapping[str, nn.Module]) -> Pair | str:
    """The pair in the shapes that its projection has, or what is wrong with it. Layers inside a motion module
    are compared where they are put."""
    if pair.place.into not in nets:
        return pair
    host = nets[pair.place.into].get_submodule(pair.place.path)
    weight = host.weight
    assert isinstance(weight, Tensor)
    wide, narrow = (pair.rank, *weight.shape[1:]), (weight.shape[0], pair.rank, *[1] * (weight.ndim - 2))
    down, up = _shaped(pair.down, wide), _shaped(pair.up, narrow)
    if down is None or up is None:
        made, here = (pair.down.shape[1], len(pair.up)), (weight.shape[1], len(weight))
        return f"from {made[0]} to {made[1]} channels, here from {here[0]} to {here[1]}"
    return Pair(pair.place, down, up, pair.alpha)


def _shaped(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A projection and a convolution of one pixel are the same thing."""
    if value.shape == shape:
        return value
    if value.shape[:2] == shape[:2] and value.numel() == math.prod(shape):
        return value.reshape(shape)
    return None


# -- as adapters hold them -----------------------------------------------------------------------------------
def tensors_of(pairs: list[Pair]) -> dict[str, Tensor]:
    out = {}
    for pair in pairs:
        head = _head(pair.place)
        out[f"{head}.down.weight"], out[f"{head}.up.weight"] = pair.down, pair.up
    return out


def _head(place: Place) -> str:
    net = place.into.removesuffix(f".{INSERTED}")
    return f"{net}.{INSERTED}.{address(place.path, LORA)}"


def targets_of(pairs: list[Pair]) -> list[dict[str, Any]]:
    """What is inserted where, as plain data: one entry per net, rank and alpha."""
    groups: dict[tuple[str, int, float], list[str]] = {}
    for pair in pairs:
        key = (pair.place.into, pair.rank, pair.alpha)
        groups.setdefault(key, []).append(_pattern(pair.place))
    return [
        {"into": into, "paths": sorted(paths), "layer": {"rank": rank, "alpha": alpha}}
        for (into, rank, alpha), paths in groups.items()
    ]


def _pattern(place: Place) -> str:
    """Its path; inside an inserted layer also where that stands in a slot of a stack."""
    if place.into != f"{UNET}.{INSERTED}":
        return place.path
    key, _, rest = place.path.removeprefix(f"{INSERTED}.").partition(".")
    return f"{INSERTED}.{key}*.{rest}"


def pairs_of(tensors: Mapping[str, Tensor], knobs: Mapping[str, Any]) -> list[Pair]:
    """The layers of an adapter whose recipe has these ``knobs``."""
    return [
        Pair(place, tensors[name], tensors[name.replace(".down.", ".up.")], _alpha(place, rank, knobs))
        for name, place, rank in _downs(tensors)
    ]


def _downs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Place, int]]:
    for name, value in tensors.items():
        found = re.fullmatch(rf"(\w+)\.{INSERTED}\.(.+)@{LORA}\.down\.weight", name)
        if found:
            yield name, _place(found[1], found[2]), len(value)


def _place(net: str, key: str) -> Place:
    inside = key.removeprefix(f"{INSERTED}/")
    if inside == key:
        return Place(net, key.replace("/", "."))
    at = inside.index("/temporal_transformer/")
    return Place(f"{net}.{INSERTED}", f"{INSERTED}.{inside[:at]}.{inside[at + 1 :].replace('/', '.')}")


def _alpha(place: Place, rank: int, knobs: Mapping[str, Any]) -> float:
    layers = [
        target["layer"]
        for target in knobs.get("targets", ())
        if target["into"] == place.into and any(fnmatchcase(place.path, path) for path in target["paths"])
    ]
    layer = (layers or [knobs.get("layer") or {}])[0]
    return float(layer.get("alpha") or rank)
