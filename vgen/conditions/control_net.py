"""Structure that a clip keeps: a ControlNet and the pictures it is shown (Zhang et al. 2023, section 3)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.control_net import picture_factor, refuse_misfit
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoControlNet, VideoUNet
from vgen.conditions.condition import WEIGHT, Condition, Encoded, Fields
from vgen.conditions.figures import refuse_crowd
from vgen.conditions.pictures import picture_of
from vgen.diffusion.moment import Moment
from vgen.spec import spec


@spec
class ControlNet(Condition):
    """``reading`` is the field that it is shown as pictures: edges, depth, poses, or ``control``, pictures as
    they are. ``scale`` 1 is as trained. A row that drops it is told nothing by it; it runs all the same.
    Where ``one_person`` is drawn, key points of several are refused."""

    reading: str = "control"
    scale: float = 1.0
    one_person: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(f"the ControlNet's scale must be 0 or more, got {self.scale}; 1 is as trained")

    def reads(self) -> tuple[str, ...]:
        return (self.reading,)

    def louder(self, factor: float) -> ControlNet:
        return replace(self, scale=self.scale * factor)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        if self.one_person and "latents" not in fields:
            refuse_crowd(fields[self.reading])
        canvas = _canvas(fields, module)
        height, width = canvas[-2:] or (model.size_px, model.size_px)
        pictures = picture_of(self.reading, fields[self.reading], height, width)
        _refuse_size(self.reading, pictures, canvas)
        weight = torch.ones(len(pictures), device=pictures.device)
        return Encoded(clip={WEIGHT: weight}, frames={"pictures": pictures}, null={WEIGHT: weight[:1] * 0})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        assert isinstance(module, VideoControlNet)  # the wiring's
        if moment is not None and not bool(encoded.clip[WEIGHT].any()):
            return Conditioning()  # unheard in every row of this step
        words = Conditioning(so_far.text(), stills=so_far.stills)
        said = module(x, t, words, encoded.frames["pictures"], self.scale)
        weight = encoded.clip[WEIGHT].repeat_interleave(x.shape[1])[:, None, None, None]
        return Conditioning(residuals=said.scaled(weight.to(x.dtype)))


def _canvas(fields: Fields, module: nn.Module | None) -> tuple[int, ...]:
    """Frames, height and width of the pictures for these clips: of their latents, or of those to be drawn;
    empty where nothing says them."""
    if "latents" in fields:
        assert isinstance(module, VideoControlNet)  # the wiring's
        factor = picture_factor(module.control_net)
        _, num_frames, _, h, w = fields["latents"].shape
        return num_frames, factor * h, factor * w
    return tuple(fields.get("canvas", ()))


def _refuse_size(reading: str, pictures: Tensor, canvas: tuple[int, ...]) -> None:
    """Raises ValueError where the pictures are not one per frame, or of another size than the clips."""
    given = tuple(pictures.shape[i] for i in (1, 3, 4))
    if canvas and given != canvas:
        raise ValueError(
            f"{reading} has {given[0]} frames of {given[1]} x {given[2]} px where the clips have {canvas[0]} "
            f"of {canvas[1]} x {canvas[2]}; write {reading} again, one picture a frame, as large as they are"
        )


def refuse_unfit(net: VideoControlNet, unet: VideoUNet, pictures: Tensor, noise: Tensor) -> None:
    """Raises ValueError where net or pictures do not go with the clips ``noise`` b f c h w."""
    refuse_misfit(net.control_net, unet.image_unet)
    if pictures.ndim != 5 or pictures.shape[2] != 3:
        raise ValueError(f"control pictures must be b f 3 H W in [0, 1], got shape {tuple(pictures.shape)}")
    _, num_frames, _, h, w = noise.shape
    factor = picture_factor(net.control_net)
    given = tuple(pictures.shape[i] for i in (1, 3, 4))
    if given != (num_frames, factor * h, factor * w):
        raise ValueError(
            f"control pictures must be one per frame of the clip, {num_frames} of {factor * h} x "
            f"{factor * w} px "
            f"for this ControlNet, got {given[0]} of {given[1]} x {given[2]}"
        )
