"""What low-rank layers are called in the files of other programs, and beside which projection they stand.

Five ways of naming are read: kohya's (underscores, of diffusers' or of the original UNet), diffusers' old and
PEFT's (dots), AnimateDiff's, and any of them without a prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffusers.models import UNet2DConditionModel
from torch import nn

from vgen.backbones.sites import INSERTED
from vgen.formats.animatediff import INNER
from vgen.formats.diffusers_motion import OURS_TO_THEIRS
from vgen.formats.motion_names import homes

UNET = "unet"
_TEXTS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_PART = re.compile(
    r"^(?P<path>.+?)(?:"
    r"\.lora_(?P<kohya>down|up)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.\w+)?\.weight"
    r"|(?P<joined>_lora|\.lora|\.lora_linear_layer)\.(?P<old>down|up)\.weight"
    r"|\.(?P<alpha>alpha))$"
)
_SGM = re.compile(
    r"(?P<part>input_blocks|middle_block|output_blocks)_(?P<n>\d+)(?:_(?P<m>\d+))?_(?P<rest>.+)"
)
_SGM_INNER = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_SGM_STEM = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
}


@dataclass(frozen=True, slots=True)
class Name:
    """A tensor's name, taken apart: the module's name in the file, and ``down``, ``up`` or ``alpha``."""

    module: str
    part: str


@dataclass(frozen=True, slots=True)
class Place:
    """A projection or convolution: its net, as insertions name it, and its path there."""

    into: str
    path: str


def parted(name: str) -> Name | None:
    """None where it is no tensor of a low-rank layer."""
    found = _PART.match(name)
    if found is None:
        return None
    part = found["kohya"] or found["old"] or {"A": "down", "B": "up"}.get(found["peft"] or "") or "alpha"
    path = found["path"]
    if found["alpha"]:
        path = re.sub(r"(_lora|\.lora|\.lora_linear_layer)$", "", path)
    return Name(path.replace(".processor.", "."), part)


class Places:
    """Every projection and convolution of some nets, by the names that files give them.

    ``nets`` are the UNet and the text encoders, by the names of their components.
    """

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        self.paths = {net: _leaves(module) for net, module in nets.items()}
        unet = nets.get(UNET)
        self.homes = {}
        if isinstance(unet, UNet2DConditionModel):
            self.homes = {home.original: home.sidecar for home in homes(unet)}

    def find(self, module: str) -> Place | None:
        """Where a layer of this name stands; None where nothing is called so."""
        name = re.sub(r"^(module|base_model\.model)\.", "", module)
        kohya = re.match(r"lora_(unet|te1|te2|te)_(.+)$", name)
        if kohya:
            net = _TEXTS.get(kohya[1], UNET)
            return self._underscored(net, kohya[2])
        net, dot, rest = name.partition(".")
        if not dot or net not in (UNET, *_TEXTS.values()):
            net, rest = UNET, name
        if net == UNET and ".motion_modules." in rest:
            return self._in_motion_module(rest)
        return self._dotted(net, rest)

    def _underscored(self, net: str, name: str) -> Place | None:
        known = {path.replace(".", "_"): path for path in self.paths.get(net, ())}
        for spelt in (name, *_respelt(net, name)):
            if spelt in known:
                return Place(net, known[spelt])
        return None

    def _dotted(self, net: str, path: str) -> Place | None:
        known = self.paths.get(net, frozenset())
        for spelt in (path, f"{path}.0", *_respelt(net, path)):
            if spelt in known:
                return Place(net, spelt)
        return None

    def _in_motion_module(self, path: str) -> Place | None:
        found = re.match(r"(.+\.motion_modules\.\d+)\.(.+)$", path)
        home = self.homes.get(found[1]) if found else None
        if found is None or home is None:
            return None
        inner = found[2].removeprefix(f"{INNER}.")
        for ours, theirs in OURS_TO_THEIRS.items():
            inner = re.sub(rf"(?<=\.){theirs}(?=\.)", ours, inner)
        tail = f"{inner}.0" if inner.endswith(".to_out") else inner
        return Place(f"{UNET}.{INSERTED}", f"{home.removeprefix(f'{UNET}.')}.{INNER}.{tail}")


def _leaves(net: nn.Module) -> frozenset[str]:
    return frozenset(
        name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    )


def _respelt(net: str, name: str) -> Iterable[str]:
    """Other spellings of a module's name, with dots or underscores."""
    if net == UNET:
        yield from _of_original_unet(name)
        return
    for mark in (".", "_"):
        head = f"text_model{mark}"
        bare = name.removeprefix(head)
        for spelt in (bare, head + bare):
            yield spelt
            yield re.sub(r"to_(q|k|v|out)$", lambda found: _OLD_TEXT[found[0]], spelt)


def _of_original_unet(name: str) -> Iterable[str]:
    """diffusers' names, in underscores, of a module that the original UNet calls ``name`` (two residual
    blocks a level)."""
    if name in _SGM_STEM:
        yield _SGM_STEM[name]
    found = _SGM.match(name)
    if found is None:
        return
    n, m, rest = int(found["n"]), found["m"], found["rest"]
    kind = "attentions" if rest.startswith(("transformer_blocks", "proj_", "norm")) else "resnets"
    inner = _SGM_INNER.get(rest, rest)
    if found["part"] == "middle_block":
        yield f"mid_block_{kind}_{n // 2 if kind == 'resnets' else 0}_{inner}"
    elif found["part"] == "input_blocks":
        level, index = divmod(n - 1, 3)
        sampler = f"down_blocks_{level}_downsamplers_0_conv"
        yield sampler if rest == "op" else f"down_blocks_{level}_{kind}_{index}_{inner}"
    else:
        level, index = divmod(n, 3)
        sampler = f"up_blocks_{level}_upsamplers_0_conv"
        yield sampler if rest == "conv" and m else f"up_blocks_{level}_{kind}_{index}_{inner}"


# -- our places in their names -------------------------------------------------------------------------------
def kohya(place: Place) -> str:
    """Without a place for what stands in inserted layers, which kohya has no names for."""
    if place.into == UNET:
        return f"lora_unet_{place.path.replace('.', '_')}"
    short = {"text_encoder": "te", "text_encoder_2": "te2"}[place.into]
    return f"lora_{short}_{_with_head(place.path).replace('.', '_')}"


def diffusers(place: Place, unet: UNet2DConditionModel) -> str:
    if place.into == f"{UNET}.{INSERTED}":
        original = animatediff(place, unet).replace(f".{INNER}.", ".")
        for ours, theirs in OURS_TO_THEIRS.items():
            original = original.replace(f".{ours}.", f".{theirs}.")
        return f"{UNET}.{original}"
    path = place.path if place.into == UNET else _with_head(place.path)
    return f"{place.into}.{path}"


def animatediff(place: Place, unet: UNet2DConditionModel) -> str:
    """The projection's path in AnimateDiff's own layout."""
    if place.into == UNET:
        return place.path
    for home in homes(unet):
        ours = f"{home.sidecar.removeprefix(f'{UNET}.')}."
        if place.path.startswith(ours):
            return f"{home.original}.{place.path.removeprefix(ours)}"
    raise ValueError(f"AnimateDiff has no motion module at {place.path}; its layers stand elsewhere")


def _with_head(path: str) -> str:
    return path if path.startswith("text_model.") else f"text_model.{path}"
