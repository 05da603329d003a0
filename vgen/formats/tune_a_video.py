"""Tune-A-Video checkpoints as they are found: a whole inflated UNet, its temporal layers under one of two
names.

The authors' pipelines hold every tensor of the UNet; what was not tuned is that of the image model, which is
how a checkpoint of another image model is noticed. FateZero's and later forks say ``attn_temporal`` and
``norm_temporal`` for ``attn_temp`` and ``norm_temp``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.sites import Kind, sites

_TEMPORAL = re.compile(
    r"^(?P<block>.+\.transformer_blocks\.\d+)\.(?P<part>attn|norm)_temp(?:oral)?\.(?P<rest>.+)$"
)
_TUNED = re.compile(r"\.attn[12]\.to_q\.weight$")
IMAGE_NORM_SCOPE = "clip"
"""Over what the image UNet's norms took their statistics when these checkpoints were made: all of its
family pool over frames, and no file says so."""
MOST_NAMED = 3
NEAR = 2e-3  # half precision, twice over


@dataclass(frozen=True, slots=True)
class Imported:
    """Tensors by vgen's names, and remarks for the person who imports."""

    tensors: dict[str, Tensor]
    notes: list[str]


def recognises(state: Mapping[str, Tensor]) -> bool:
    return any(
        isinstance(name, str) and _TEMPORAL.match(name) for name in state
    )  # a foreign file can have numbers for names


def import_(state: Mapping[str, Tensor], unet: UNet2DConditionModel) -> Imported:
    """Raises ValueError where the checkpoint lacks temporal layers of this UNet, holds others, or was tuned
    on another image model."""
    own, tensors, unknown, astray = dict(unet.state_dict()), {}, [], []
    for name, value in state.items():
        match = _TEMPORAL.match(name)
        if not isinstance(value, Tensor):
            unknown.append(name)
        elif match:
            tensors[
                f"unet.inserted.{match['block'].replace('.', '/')}.{match['part']}_temp.{match['rest']}"
            ] = value
        elif name not in own or own[name].shape != value.shape:
            unknown.append(name)
        elif _TUNED.search(name):
            tensors[f"unet.image_unet.{name}"] = value
        elif not torch.allclose(own[name].float(), value.float(), atol=NEAR, rtol=NEAR):
            astray.append(name)
    if unknown:
        raise ValueError(
            f"the checkpoint holds {len(unknown)} tensors that this image model has no place for "
            f"(first: {', '.join(unknown[:MOST_NAMED])}); "
            "it is of another method, or its image model has other shapes"
        )
    if astray:
        raise ValueError(
            f"the checkpoint was tuned on another image model: {len(astray)} tensors that tuning leaves "
            "alone differ (first: "
            f"{', '.join(astray[:MOST_NAMED])}); give the image model it was tuned on with backbone="
        )
    missing = [name for name in _wanted(unet) if name not in tensors]
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} tensors of Tune-A-Video (first: "
            f"{', '.join(missing[:MOST_NAMED])}); "
            "it is cut or of another method"
        )
    return Imported(tensors, _remarks(state, own))


def export(tensors: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The whole UNet by the authors' names; the inverse of :func:`import_`."""
    out = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    for name, value in tensors.items():
        short = name.removeprefix("unet.inserted.").removeprefix("unet.image_unet.")
        out[short.replace("/", ".")] = value
    return out


def _wanted(unet: UNet2DConditionModel) -> list[str]:
    out = []
    for site in sites(unet):
        if site.kind is Kind.BLOCK:
            inserted = f"unet.inserted.{site.path.replace('.', '/')}.attn_temp"
            out += [
                f"{inserted}.{rest}"
                for rest in ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
            ]
            out += [f"unet.image_unet.{site.path}.attn{i}.to_q.weight" for i in (1, 2)]
    return out


def _remarks(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    style = "attn_temporal" if any(".attn_temporal." in name for name in state) else "attn_temp"
    frozen = sum(name in state for name in own)
    notes = [
        f"Tune-A-Video, temporal layers called {style}; {frozen} of {len(own)} tensors of the image UNet "
        "are in it",
        f"assumed, as the file does not say it: the image UNet's norm scope is {IMAGE_NORM_SCOPE}",
    ]
    norms = [value for name, value in state.items() if re.search(r"\.norm_temp(oral)?\.weight$", name)]
    if norms and not all(torch.allclose(v.float(), torch.ones_like(v.float()), atol=NEAR) for v in norms):
        notes.append("its temporal norms were tuned too, which the published recipe does not")
    return notes
