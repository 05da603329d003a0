"""Motion modules in the two formats that other programs read, each with its proof: AnimateDiff's file and
diffusers' folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import MotionAdapter, UNet2DConditionModel
from torch import Tensor

from vgen.formats import animatediff, diffusers_motion, proof, state_file
from vgen.formats.foreign import CARD_FILE, CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.readers import identify, unsaid
from vgen.formats.state_file import Container


class MotionFile(Foreign):
    """What ComfyUI, A1111 and AnimateDiff itself read."""

    name: ClassVar[str] = "animatediff"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def recognises(self, source: Source) -> bool:
        return not source.is_folder and animatediff.recognises(source.file()[0])

    def card(self, source: Source) -> str:
        return source.file()[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        rows = num_positions or animatediff.ROWS_IF_ABSENT
        return _counted(animatediff.import_(source.file()[0], unet, rows), source, num_positions)

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return _facts(knobs)

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return _frames(knobs)

    def write(self, path: Path, learnt: Learnt) -> Rows:
        motion = learnt.knobs["motion"]
        state = animatediff.export(learnt.tensors, learnt.unet, motion["num_positions"])
        container = Container(path.suffix.removeprefix("."))
        state_file.write(path, state, container, {CARD_KEY: learnt.card_text()})
        back, _ = state_file.read(path)
        again = animatediff.import_(back, learnt.unet).tensors
        written, own = proof.same(state, back, str(path)), proof.same(learnt.tensors, again, str(path))
        text = f"{written} tensors, equal to the bit; imported again they are the adapter's {own}"
        seen = [(f"seen by {reader.value}", str(sight)) for reader, sight in identify(back).items()]
        layout, _ = animatediff.detect(back, learnt.unet)
        told = unsaid(layout, motion, learnt.knobs["schedule"])
        return [("read back", text), *_in_diffusers(path, learnt, again), *seen, *told.items()]


class MotionFolder(Foreign):
    """What diffusers' ``AnimateDiffPipeline`` reads."""

    name: ClassVar[str] = "diffusers"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def recognises(self, source: Source) -> bool:
        return source.is_folder and diffusers_motion.recognises(source.path)

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        state, arguments = diffusers_motion.read(source.path)
        return _counted(diffusers_motion.import_(state, arguments, unet), source, num_positions)

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return _facts(knobs)

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return _frames(knobs)

    def write(self, path: Path, learnt: Learnt) -> Rows:
        arguments = _arguments(learnt)
        diffusers_motion.write(path, learnt.tensors, learnt.unet, arguments)
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        again = diffusers_motion.import_(*diffusers_motion.read(path), learnt.unet).tensors
        count = proof.same(learnt.tensors, again, str(path))
        rows = [("read back", f"{count} tensors, equal to the bit")]
        return rows + _agreement(proof.open_folder(path), arguments, again, learnt, str(path))


def _counted(found: Imported, source: Source, num_positions: int) -> Imported:
    rows = found.knobs["motion"]["num_positions"]
    if num_positions not in (0, rows):
        raise ValueError(
            f"from={source.named} says itself that it has {rows} position rows, got "
            f"num_positions={num_positions}; leave it out"
        )
    return found


def _facts(knobs: Mapping[str, Any]) -> dict[str, Any]:
    motion = knobs["motion"]
    return {
        "middle block": knobs["mid_block"],
        "positions": motion["num_positions"],
        "blocks": motion["num_blocks"],
        "attentions": motion["num_attentions"],
    }


def _frames(knobs: Mapping[str, Any]) -> int:
    return min(proof.FRAMES, knobs["motion"]["num_positions"])


def _arguments(learnt: Learnt) -> dict[str, Any]:
    return diffusers_motion.config(learnt.unet, learnt.knobs["motion"], learnt.knobs["mid_block"])


def _in_diffusers(path: Path, learnt: Learnt, tensors: dict[str, Tensor]) -> Rows:
    """The proof of a file: diffusers converts it, where it can build such a module."""
    theirs, ours = diffusers_motion.ATTENTIONS, learnt.knobs["motion"]["num_attentions"]
    if ours != theirs:
        why = f"its motion block has {theirs} attentions, this one {ours}"
        return [("forward in diffusers", f"could not be proved: {why}; only the tensors were compared")]
    arguments = _arguments(learnt)
    return _agreement(proof.open_file(path, arguments), arguments, tensors, learnt, str(path))


def _agreement(
    peer: MotionAdapter, arguments: dict[str, Any], tensors: dict[str, Tensor], learnt: Learnt, where: str
) -> Rows:
    """One forward pass here and in diffusers on what was written; where the recipe's norm scopes are not
    diffusers', what that changes."""
    count = proof.read_by_peer(peer, tensors, learnt.unet, arguments, where)
    knobs, frames = learnt.knobs, _frames(learnt.knobs)
    theirs = proof.theirs(learnt.unet, peer, proof.inputs(learnt.unet, frames))
    motion = knobs["motion"] | {"norm_scope": "clip"}
    common = knobs | {"motion": motion, "image_norm_scope": "frame"}
    difference = proof.agree(proof.forward(learnt, common, tensors, frames), theirs, where)
    text = (
        f"differs by {difference:.1e} at most (limit {proof.TOLERANCE:.0e}), output spread "
        f"{theirs.std():.2f}, norm scopes as diffusers'"
    )
    rows = [("read by diffusers", f"{count} tensors, equal to the bit"), ("forward in diffusers", text)]
    if knobs != common:
        apart = (proof.forward(learnt, knobs, tensors, frames) - theirs).abs().max()
        rows.append(("norm scopes", f"{_scopes(knobs)}, which moves this output by {apart:.1e} at most"))
    return rows


def _scopes(knobs: Mapping[str, Any]) -> str:
    return (
        f"the recipe has image {knobs['image_norm_scope']}, motion {knobs['motion']['norm_scope']}; "
        "diffusers always has image frame, motion clip"
    )
