"""T2I-Adapters as they are found: the first authors' names, inside a Follow Your Pose UNet or alone, and
diffusers' names.

The first authors number residual blocks through all levels, diffusers level by level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.feature_net import RESIDUAL_BLOCKS
from vgen.formats import proof, state_file
from vgen.formats.foreign import CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

PREFIX = "skeleton_adapter."
"""What the names of a pose encoder begin with inside a Follow Your Pose UNet."""
_THEIRS = re.compile(r"^body\.(?P<block>\d+)\.(?P<part>in_conv|block1|block2)\.(?P<rest>weight|bias)$")
_OURS = re.compile(
    r"^adapter\.body\.(?P<level>\d+)\.(?:resnets\.(?P<index>\d+)\.)?(?P<part>\w+)\.(?P<rest>\w+)$"
)
_CONV_IN = ("conv_in.weight", "conv_in.bias")


def own_name(name: str) -> str | None:
    """diffusers' name for one of either; None for a name of neither."""
    if name.startswith("adapter."):
        known = _OURS.match(name) or name.removeprefix("adapter.") in _CONV_IN
        return name if known else None
    bare = name.removeprefix(PREFIX)
    if bare in _CONV_IN:
        return f"adapter.{bare}"
    match = _THEIRS.match(bare)
    if match is None:
        return None
    level, index = divmod(int(match["block"]), RESIDUAL_BLOCKS)
    where = f"adapter.body.{level}"
    if match["part"] == "in_conv":
        return f"{where}.in_conv.{match['rest']}"
    return f"{where}.resnets.{index}.{match['part']}.{match['rest']}"


def their_name(name: str) -> str:
    """The inverse of :func:`own_name`, without a prefix."""
    match = _OURS.match(name)
    if match is None:
        return name.removeprefix("adapter.")
    block = RESIDUAL_BLOCKS * int(match["level"]) + int(match["index"] or 0)
    return f"body.{block}.{match['part']}.{match['rest']}"


class PoseEncoderFile(Foreign):
    """A file with a T2I-Adapter, alone or among a UNet's tensors; the first authors' names are written.

    ``component`` is what the adapter is called in vgen's own tensors.
    """

    name: ClassVar[str] = "pose_encoder"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def __init__(self, component: str) -> None:
        self.component = component

    def recognises(self, source: Source) -> bool:
        return not source.is_folder and bool(self._tensors(source.state()))

    def card(self, source: Source) -> str:
        return source.file()[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        if num_positions:
            raise ValueError(
                f"from={source.named} is a pose encoder, which knows no positions, got "
                f"num_positions={num_positions}; leave it out"
            )
        found = self._tensors(source.state())
        return Imported(
            tensors=found,
            knobs={},
            origin=f"a T2I-Adapter of {len(found)} tensors",
            notes=[],
            assumed="",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        begin = f"{self.component}."
        state = {their_name(name.removeprefix(begin)): value for name, value in learnt.tensors.items()}
        container = Container(path.suffix.removeprefix("."))
        state_file.write(path, state, container, {CARD_KEY: learnt.card_text()})
        back, _ = state_file.read(path)
        written = proof.same(dict(learnt.tensors), self._tensors(back), str(path))
        return [("read back", f"{written} tensors, equal to the bit")]

    def _tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in state if isinstance(name, str)]
        inside = [name for name in names if name.startswith(PREFIX)]
        named = {own_name(name): state[name] for name in inside or names}
        found = {f"{self.component}.{name}": value for name, value in named.items() if name is not None}
        return found if any(".body." in name for name in found) else {}
