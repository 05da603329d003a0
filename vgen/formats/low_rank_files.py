"""Low-rank layers in the formats that other programs read, each with its proof: kohya's file, AnimateDiff's
file, diffusers' folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.loaders import lora_conversion_utils
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.formats import low_rank, low_rank_names, proof, state_file
from vgen.formats.foreign import CARD_FILE, CARD_KEY, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.low_rank import Pair
from vgen.formats.low_rank_names import UNET
from vgen.formats.state_file import Container

WEIGHTS = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""


class LowRankFormat(Foreign):
    """Reading is the same for all: every naming is known.

    ``layer_knob`` says that the recipe has one rank and alpha for all layers; else it has a list of targets.
    ``temporal`` says that its layers stand inside motion modules. What is ``written_only`` leaves files whose
    names do not say whose they are to others.
    """

    def __init__(self, layer_knob: bool = False, temporal: bool = False, written_only: bool = False) -> None:
        self.layer_knob, self.temporal = layer_knob, temporal
        self.written_only = written_only

    def recognises(self, source: Source) -> bool:
        if self.written_only:
            return False
        path = self._path(source)
        if source.is_folder is not self.folder or not path.is_file():
            return False
        names = low_rank.names_of(source.file(path)[0])
        inside = any(".motion_modules." in name for name in names)
        return low_rank.recognises(names) and inside is self.temporal and self._is_mine(names)

    def _is_mine(self, names: list[str]) -> bool:
        """Whether the names are of the kind of this format."""
        return True

    def _path(self, source: Source) -> Path:
        return source.path / WEIGHTS if source.is_folder else source.path

    def card(self, source: Source) -> str:
        return source.file(self._path(source))[1].get(CARD_KEY, "")

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        entries, metadata = source.file(self._path(source))
        pairs = low_rank.read(entries, {UNET: unet}, metadata)
        targets = low_rank.targets_of(pairs)
        layers = [target["layer"] for target in targets]
        if self.layer_knob and any(layer != layers[0] for layer in layers):
            raise ValueError(
                f"its layers have {len(layers)} ranks or scales, and the method has one for all; name it "
                "with loras.NAME.file=FILE"
            )
        text = f"{len(pairs)} low-rank layers of rank {', '.join(sorted({str(p.rank) for p in pairs}))}"
        return Imported(
            tensors=low_rank.tensors_of(pairs),
            knobs={"layer": layers[0]} if self.layer_knob else {"targets": targets},
            origin=text,
            notes=[],
            assumed="what the names in it do not say: on what image model it was trained",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        """Ranks; alpha may be said in other ways."""
        layers = [target["layer"] for target in knobs.get("targets", ())] or [knobs["layer"]]
        return {"ranks": sorted({layer["rank"] for layer in layers}), "layers": "low-rank"}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return proof.FRAMES

    def write(self, path: Path, learnt: Learnt) -> Rows:
        pairs = low_rank.pairs_of(learnt.tensors, learnt.knobs)
        if not pairs:
            raise ValueError(
                f"to={self.name} holds low-rank layers and this run learnt whole weights; its image_model/ "
                "is what others read, as it is"
            )
        state = self.state(pairs, learnt.unet)
        file = path / WEIGHTS if self.folder else path
        container = Container(file.suffix.removeprefix("."))
        state_file.write(file, state, container, {CARD_KEY: learnt.card_text()})
        if self.folder:
            (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        back, _ = state_file.read(file)
        count = proof.same(state, back, str(path))
        return [("read back", f"{count} tensors, equal to the bit"), *self.proved(back, pairs, learnt)]

    @abstractmethod
    def state(self, pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
        """The file's tensors by its names."""

    def proved(self, back: dict[str, Tensor], pairs: list[Pair], learnt: Learnt) -> Rows:
        """The same change of every weight, out of what was written."""
        nets = {UNET: learnt.unet}
        own = [pair for pair in pairs if pair.place.into.startswith(UNET)]
        again = {pair.place: pair for pair in low_rank.read(_of_unet(back), nets, {})}
        worst = max(_difference(pair, again[pair.place]) for pair in own)
        if not worst <= 1e-5 or len(again) != len(own):
            raise ValueError(
                f"{len(again)} of {len(own)} layers read back, their weights apart by {worst:.1e} of their "
                "size; nothing was kept"
            )
        return [("imported again", f"{len(again)} layers change their weights alike, to {worst:.0e}")]


def _of_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(("lora_te", "text_encoder"))}


def _difference(one: Pair, other: Pair) -> float:
    a, b = (_delta(pair) for pair in (one, other))
    return float((a - b).norm() / a.norm().clamp(min=1e-12))


def _delta(pair: Pair) -> Tensor:
    up, down = pair.up.double().flatten(1), pair.down.double().flatten(1)
    return pair.alpha / pair.rank * (up @ down)


def _as_is(pair: Pair) -> Tensor:
    """``up`` with the scale in it, for formats that have no alpha."""
    return pair.up * (pair.alpha / pair.rank)


class KohyaFile(LowRankFormat):
    """What A1111, ComfyUI and kohya's scripts read."""

    name: ClassVar[str] = "kohya"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def _is_mine(self, names: list[str]) -> bool:
        return any(name.startswith("lora_") for name in names)

    def state(self, pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
        out = {}
        for pair in pairs:
            name = low_rank_names.kohya(pair.place)
            out[f"{name}.lora_down.weight"], out[f"{name}.lora_up.weight"] = pair.down, pair.up
            out[f"{name}.alpha"] = torch.tensor(pair.alpha)
        return out

    def proved(self, back: dict[str, Tensor], pairs: list[Pair], learnt: Learnt) -> Rows:
        theirs, alphas = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(dict(back))
        if len(theirs) != 2 * len(pairs) or len(alphas) != len(pairs):
            raise ValueError(
                f"diffusers reads {len(theirs)} tensors and {len(alphas)} scales of {len(pairs)} layers; "
                "nothing was kept"
            )
        return [
            *super().proved(back, pairs, learnt),
            ("read by diffusers", f"{len(theirs)} tensors, {len(alphas)} scales"),
        ]


class LowRankFolder(LowRankFormat):
    """What diffusers' ``load_lora_weights`` reads, by PEFT's names."""

    name: ClassVar[str] = "diffusers"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS,)

    def state(self, pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
        out = {}
        for pair in pairs:
            name = low_rank_names.diffusers(pair.place, unet)
            out[f"{name}.lora_A.weight"], out[f"{name}.lora_B.weight"] = pair.down, _as_is(pair)
        return out


class AdapterFile(LowRankFormat):
    """AnimateDiff's own files: the domain adapter, MotionLoRA. ComfyUI and A1111 read them too."""

    name: ClassVar[str] = "animatediff"
    folder: ClassVar[bool] = False
    containers: ClassVar[tuple[Container, ...]] = (Container.SAFETENSORS, Container.CKPT)

    def __init__(self, temporal: bool) -> None:
        super().__init__(layer_knob=True, temporal=temporal)

    def _is_mine(self, names: list[str]) -> bool:
        return any(".processor." in name for name in names)

    def state(self, pairs: list[Pair], unet: UNet2DConditionModel) -> dict[str, Tensor]:
        out = {}
        for pair in pairs:
            path = low_rank_names.animatediff(pair.place, unet).removesuffix(".0")
            owner, _, projection = path.rpartition(".")
            name = f"{owner}.processor.{projection}_lora"
            out[f"{name}.down.weight"], out[f"{name}.up.weight"] = pair.down, _as_is(pair)
        return out
