"""DreamPose's own checkpoints: a folder with the UNet, its first convolution wide, and the adapter of the
reference, each a plain dictionary of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor

from vgen.backbones.conditioning import Conditioning
from vgen.formats import proof, state_file
from vgen.formats.foreign import CARD_FILE, Foreign, Imported, Learnt, Rows, Source
from vgen.formats.state_file import Container

FIRST, GUEST, BESIDE = "conv_in.weight", "unet.image_unet.", "unet.inserted.conv_in.conv.weight"
ADAPTER = "image."
"""What the names of the adapter's tensors begin with."""
SEEN_BY_VAE = "vae2clip.weight"
UNET_FILE, ADAPTER_FILE = "unet_epoch_0.pth", "adapter_0.pth"
RELEASED_PX = {1280: (640, 512)}
"""Height and width of the released code's pictures, by the cells that its adapter reads."""
MOST_NAMED = 3


class PosedFolder(Foreign):
    """``unet_epoch_N.pth`` and ``adapter_N.pth``; with several, the last in the order of their names."""

    name: ClassVar[str] = "dreampose"
    folder: ClassVar[bool] = True
    containers: ClassVar[tuple[Container, ...]] = (Container.CKPT,)

    def recognises(self, source: Source) -> bool:
        files = _files(source)
        return files is not None and SEEN_BY_VAE in _bare(source.file(files[1])[0])

    def card(self, source: Source) -> str:
        path = source.path / CARD_FILE
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read(self, source: Source, unet: UNet2DConditionModel, num_positions: int) -> Imported:
        files = _files(source)
        if files is None:
            raise ValueError(
                f"from={source.named} holds no unet_epoch_N.pth with an adapter_N.pth; give the folder that "
                "DreamPose's training wrote"
            )
        if num_positions:
            raise ValueError(
                f"from={source.named} is of DreamPose, which knows no positions, got "
                f"num_positions={num_positions}; leave it out"
            )
        state, adapter = (_bare(source.file(path)[0]) for path in files)
        _refuse_misfit(state, unet, source.named)
        tensors = {**_split(state, unet), **{f"{ADAPTER}{name}": value for name, value in adapter.items()}}
        return Imported(
            tensors=tensors,
            knobs=_knobs(adapter, source.named),
            origin=f"DreamPose, its first convolution split into {unet.config['in_channels']} channels and "
            f"{tensors[BESIDE].shape[1]} of poses",
            notes=["the VAE stays unread: that of the image model is used"],
            assumed="assumed, as the folder does not say it: poses are DensePose's pictures, as control",
        )

    def facts(self, knobs: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def proof_frames(self, knobs: Mapping[str, Any]) -> int:
        return 1

    def write(self, path: Path, learnt: Learnt) -> Rows:
        state = {n.removeprefix(GUEST): v for n, v in learnt.tensors.items() if n.startswith(GUEST)}
        state[FIRST] = torch.cat([state[FIRST], learnt.tensors[BESIDE]], 1)
        adapter = {n.removeprefix(ADAPTER): v for n, v in learnt.tensors.items() if n.startswith(ADAPTER)}
        state_file.write(path / UNET_FILE, state, Container.CKPT)
        state_file.write(path / ADAPTER_FILE, adapter, Container.CKPT)
        (path / CARD_FILE).write_text(learnt.card_text(indent=2))
        source = Source(str(path), path)
        back = self.read(source, learnt.unet, 0).tensors
        count = proof.same(learnt.tensors, back, str(path))
        difference = proof.agree(_ours(learnt), _theirs(learnt, state), str(path))
        text = f"differs by {difference:.1e} at most (limit {proof.TOLERANCE:.0e})"
        return [("read back", f"{count} tensors, equal to the bit"), ("forward in diffusers", text)]


def _files(source: Source) -> tuple[Path, Path] | None:
    """The UNet's file and the adapter's."""
    if not source.is_folder:
        return None
    found = [sorted(source.path.glob(pattern)) for pattern in ("unet_epoch_*.pth", "adapter_*.pth")]
    return (found[0][-1], found[1][-1]) if all(found) else None


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what training on several GPUs puts before every name."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def _split(state: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, Tensor]:
    own = unet.config["in_channels"]
    first = state[FIRST]
    out = {f"{GUEST}{name}": value for name, value in state.items()}
    out[f"{GUEST}{FIRST}"], out[BESIDE] = first[:, :own].contiguous(), first[:, own:].contiguous()
    return out


def _knobs(adapter: Mapping[str, Tensor], named: str) -> dict[str, Any]:
    """The size of the pictures, which the adapter shows by the number of its cells. Raises ValueError where
    it could be any."""
    cells = adapter[SEEN_BY_VAE].shape[1]
    poses = {"pose": {"reading": "control"}}
    if cells in RELEASED_PX:
        height, width = RELEASED_PX[cells]
        return {**poses, "reference": {"height_px": height, "width_px": width}}
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(
            f"from={named} has an adapter of {cells} cells, which are neither a square nor 640 x 512 px; "
            "vgen cannot tell the size of its pictures"
        )
    return poses


def _refuse_misfit(state: Mapping[str, Tensor], unet: UNet2DConditionModel, named: str) -> None:
    """Raises ValueError where the image model has other tensors than the folder's UNet."""
    own = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    first = own.pop(FIRST)
    wide = theirs.pop(FIRST, ())
    differ = sorted(name for name in {*own, *theirs} if own.get(name) != theirs.get(name))
    if len(wide) != len(first) or wide[1] <= first[1] or (wide[0], *wide[2:]) != (first[0], *first[2:]):
        differ = [FIRST, *differ]
    if differ:
        raise ValueError(
            f"from={named} has a UNet of other shapes than the image model: {len(differ)} tensors differ "
            f"(first: {', '.join(differ[:MOST_NAMED])}); give the image model it was trained from with "
            "backbone="
        )


def _beside(x: Tensor, channels: int) -> Tensor:
    """Random poses for ``x`` b f c h w, the same each time."""
    shape = (*x.shape[:2], channels, *x.shape[3:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _ours(learnt: Learnt) -> Tensor:
    given = proof.inputs(learnt.unet, 1)
    tensors = {name: value.float() for name, value in learnt.tensors.items()}
    poses = _beside(given.x, tensors[BESIDE].shape[1])
    said = Conditioning(given.context, concat={learnt.knobs["pose"]["beside"]: poses})
    with learnt.assembled(learnt.knobs, tensors) as video:
        return video(given.x, given.t, said)


@torch.no_grad()
def _theirs(learnt: Learnt, state: Mapping[str, Tensor]) -> Tensor:
    config = {key: value for key, value in learnt.unet.config.items() if not key.startswith("_")}
    with torch.device("meta"):
        wide = UNet2DConditionModel(**{**config, "in_channels": state[FIRST].shape[1]})
    wide.load_state_dict({name: value.float() for name, value in state.items()}, strict=True, assign=True)
    given = proof.inputs(learnt.unet, 1)
    beside = _beside(given.x, state[FIRST].shape[1] - given.x.shape[2])
    x = torch.cat([given.x, beside], 2)[:, 0]
    return wide.eval()(x, given.t, given.context.tokens, return_dict=False)[0][:, None]
