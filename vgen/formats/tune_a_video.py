"""Tune-A-Video checkpoints as they are found: a whole inflated UNet, its temporal layers under one of two
names.

The authors' pipelines hold every tensor of the UNet; what was not tuned is that of the image model, which is
how a checkpoint of another image model is noticed. FateZero's and later forks say ``attn_temporal`` and
``norm_temporal`` for ``attn_temp`` and ``norm_temp``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.sites import Kind, sites
from vgen.formats import model_folder, proof, state_file
from vgen.formats.foreign import CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

_TEMPORAL = re.compile(
    r"^(?P<block>.+\.transformer_blocks\.\d+)\.(?P<part>attn|norm)_temp(?:oral)?\.(?P<rest>.+)$"
)
_TUNED = re.compile(r"\.attn[12]\.to_q\.weight$")
IMAGE_NORM_SCOPE = "clip"
"""Over what the image UNet's norms took their statistics when these checkpoints were made: all of its
family pool over frames, and no file says so."""
_READERS = {"first + previous": "Tune-A-Video", "first": "Video-P2P"}
"""Whose released code reads these frames in self-attention."""
MOST_NAMED = 3
NEAR = 2e-3  # half precision, twice over


def recognises(state: Mapping[str, Tensor]) -> bool:
    """A file with convolutions over frames beside the attention is Follow Your Pose's."""
    names = [name for name in state if isinstance(name, str)]  # a foreign file can have numbers for names
    return any(_TEMPORAL.match(name) for name in names) and not any(".conv_temporal." in n for n in names)


def import_(state: Mapping[str, Tensor], unet: UNet2DConditionModel) -> Imported:
    """Raises ValueError where the checkpoint lacks temporal layers of this UNet, holds others, or was tuned
    on another image model."""
    own, tensors, unknown, astray = dict(unet.state_dict()), {}, [], []
    for name, value in state.items():
        match = _TEMPORAL.match(name)
        if not isinstance(value, Tensor):
            unknown.append(name)
        elif match:
            layer = f"unet.inserted.{match['block'].replace('.', '/')}.{match['part']}_temp"
            tensors[f"{layer}.{match['rest']}"] = value
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
    style = "attn_temporal" if any(".attn_temporal." in name for name in state) else "attn_temp"
    frozen = sum(name in state for name in own)
    return Imported(
        tensors=_without_untuned(tensors),
        knobs={"image_norm_scope": IMAGE_NORM_SCOPE},
        origin=f"Tune-A-Video, temporal layers called {style}; {frozen} of {len(own)} tensors of the image "
        "UNet are in it",
        notes=_remarks(state),
        assumed="assumed, as the file does not say it: the image UNet's norm scope is " + IMAGE_NORM_SCOPE,
    )


def export(tensors: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The whole UNet by the authors' names; the inverse of :func:`import_`. Norms that nobody tuned are
    written too, as the authors' file has them."""
    out = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    for name, value in tensors.items():
        out[_theirs(name)] = value
    for site in sites(unet):
        if site.kind is Kind.BLOCK:
            out.setdefault(f"{site.path}.norm_temp.weight", torch.ones(site.channels))
            out.setdefault(f"{site.path}.norm_temp.bias", torch.zeros(site.channels))
    return out


def _without_untuned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms at their first values say nothing: a layer is born with them."""
    first = {".norm_temp.weight": torch.ones_like, ".norm_temp.bias": torch.zeros_like}

    def untuned(name: str, value: Tensor) -> bool:
        return any(name.endswith(tail) and torch.equal(value, born(value)) for tail, born in first.items())

    return {name: value for name, value in tensors.items() if not untuned(name, value)}


def _theirs(name: str) -> str:
    short = name.removeprefix("unet.inserted.").removeprefix("unet.image_unet.")
    return short.replace("/", ".")


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


def _remarks(state: Mapping[str, Tensor]) -> list[str]:
    norms = [value for name, value in state.items() if re.search(r"\.norm_temp(oral)?\.weight$", name)]
    if all(torch.allclose(v.float(), torch.ones_like(v.float()), atol=NEAR) for v in norms):
        return []
    return ["its temporal norms were tuned too, which the published recipe does not"]


class TunedUNet(Foreign):
    """A UNet's file, or the folder of a tuned pipeline with one in ``unet/``; a file is written.

    Video-P2P's checkpoints have the same names, and nothing in them tells the two apart.
    """

    name: ClassVar[str] = "tune_a_video"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def recognises(self, source: Source) -> bool:
        return _weights(source) is not None

    def card(self, source: Source) -> str:
        path = _weights(source)
        return "" if path is None else source.file(path)[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        path = _weights(source)
        if path is None:
            raise ValueError(f"from={source.named} holds no temporal layers (attn_temp or attn_temporal)")
        if num_positions:
            raise ValueError(
                f"from={source.named} is a Tune-A-Video checkpoint, whose attention knows no positions, got "
                f"num_positions={num_positions}; leave it out"
            )
        return import_(source.state(path), unet)

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return proof.FRAMES

    def write(self, path: Path, learnt: Learnt) -> Rows:
        state = export(learnt.tensors, learnt.unet)
        own = _without_untuned(learnt.tensors)
        rows = write_unet(path, learnt, state, lambda back: import_(back, learnt.unet), own)
        return [*rows, *_unsaid(learnt.knobs)]


def write_unet(
    path: Path,
    learnt: Learnt,
    state: Mapping[str, Tensor],
    read: Callable[[Mapping[str, Tensor]], Imported],
    own: Mapping[str, Tensor],
) -> Rows:
    """Write a whole UNet's ``state`` in the precision of what was learnt, and read it back: its tensors are
    the same, and what ``read`` imports of them is ``own``."""
    width = next(iter(learnt.tensors.values())).dtype
    state = {name: value.to(width) for name, value in state.items()}
    state_file.write(path, state, Container(path.suffix.removeprefix(".")), {CARD_KEY: learnt.card_text()})
    back, _ = state_file.read(path)
    written = proof.same(state, back, str(path))
    imported = proof.same(dict(own), read(back).tensors, str(path))
    text = f"{written} tensors, equal to the bit; imported again they are the adapter's {imported}"
    unproved = "could not be proved: it is no package; only the tensors were compared"
    return [("read back", text), ("forward in the authors' code", unproved)]


def _weights(source: Source) -> Path | None:
    """The file with temporal layers: the one that was named, or a tuned pipeline's."""
    files = [source.path]
    if source.is_folder:
        files = list(model_folder.candidates(source.path / "unet"))
    return next((file for file in files if recognises(source.state(file))), None)


def _unsaid(knobs: Mapping[str, Any]) -> Rows:
    """What the released code has and the file can't say, where the recipe has something else."""
    rows, frames = [], " + ".join(knobs["frames"])
    reader = _READERS.get(frames)
    whose = f"as {reader}'s code does" if reader else "as no released code does"
    rows.append(("self-attention", f"reads {frames}, {whose}"))
    if knobs["image_norm_scope"] != IMAGE_NORM_SCOPE:
        ours = f"the recipe has image {knobs['image_norm_scope']}"
        rows.append(("norm scopes", f"{ours}; the released code always has image {IMAGE_NORM_SCOPE}"))
    heads = knobs["temporal"]["heads"]
    if heads:
        rows.append(("temporal heads", f"{heads}; the released code always has the image UNet's own"))
    return rows
