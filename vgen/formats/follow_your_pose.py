"""Follow Your Pose checkpoints as they are found: Tune-A-Video's names, and ``conv_temporal`` beside them.

The released UNet holds its pose encoder too, as ``skeleton_adapter``; that is stage one's and has a file of
its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.sites import Kind, sites
from vgen.formats import proof, tune_a_video
from vgen.formats.foreign import CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.pose_encoder import PREFIX
from vgen.formats.state_file import Container

_CONV = re.compile(r"^(?P<block>.+\.transformer_blocks\.\d+)\.conv_temporal\.(?P<part>down|up)\.weight$")
_OWN = re.compile(r"^unet\.inserted\.(?P<block>.+)@conv_temporal\.(?P<part>down|up)\.weight$")


def recognises(state: Mapping[str, Tensor]) -> bool:
    return any(isinstance(name, str) and _CONV.match(name) for name in state)


def import_(state: Mapping[str, Tensor], unet: UNet2DConditionModel) -> Imported:
    """Raises ValueError where layers are missing, of other shapes, or of another image model."""
    convolutions = {_ours(name): value for name, value in state.items() if _CONV.match(name)}
    rest = {
        name: value for name, value in state.items() if not _CONV.match(name) and not name.startswith(PREFIX)
    }
    tuned = tune_a_video.import_(rest, unet)
    missing = [name for name in _wanted(unet) if name not in convolutions]
    if missing:
        raise ValueError(
            f"the checkpoint lacks {len(missing)} convolutions over frames (first: {missing[0]}); it is cut, "
            "or of another image model"
        )
    origin = tuned.origin.replace("Tune-A-Video", "Follow Your Pose")
    ranks = {len(value) for name, value in convolutions.items() if name.endswith(".down.weight")}
    return replace(
        tuned,
        tensors={**tuned.tensors, **convolutions},
        knobs={**tuned.knobs, "convolution": {"rank": max(ranks)}},
        origin=f"{origin}; {len(convolutions)} convolutions over frames",
    )


def export(tensors: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The whole UNet by the authors' names; the inverse of :func:`import_`."""
    tuned = {name: value for name, value in tensors.items() if not _OWN.match(name)}
    out = tune_a_video.export(tuned, unet)
    for name, value in tensors.items():
        match = _OWN.match(name)
        if match:
            block = match["block"].replace("/", ".")
            out[f"{block}.conv_temporal.{match['part']}.weight"] = value
    return out


def _ours(name: str) -> str:
    match = _CONV.match(name)
    assert match
    return f"unet.inserted.{match['block'].replace('.', '/')}@conv_temporal.{match['part']}.weight"


def _wanted(unet: UNet2DConditionModel) -> list[str]:
    blocks = [site.path.replace(".", "/") for site in sites(unet) if site.kind is Kind.BLOCK]
    return [f"unet.inserted.{b}@conv_temporal.{part}.weight" for b in blocks for part in ("down", "up")]


class PosedUNet(Foreign):
    """A UNet's file; one is written, without a pose encoder."""

    name: ClassVar[str] = "follow_your_pose"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def recognises(self, source: Source) -> bool:
        return not source.is_folder and recognises(source.state())

    def card(self, source: Source) -> str:
        return source.file()[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        if num_positions:
            raise ValueError(
                f"from={source.named} is a Follow Your Pose checkpoint, whose attention knows no positions, "
                f"got num_positions={num_positions}; leave it out"
            )
        return import_(source.state(), unet)

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return proof.FRAMES

    def write(self, path: Path, learnt: Learnt) -> Rows:
        state = export(learnt.tensors, learnt.unet)
        return tune_a_video.write_unet(
            path, learnt, state, lambda back: import_(back, learnt.unet), learnt.tensors
        )
