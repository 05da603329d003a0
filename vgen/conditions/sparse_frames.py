"""Some frames of a clip, given as pictures at their places (Guo et al. 2023, SparseCtrl, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.control_net import picture_factor
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.condition import WEIGHT, Condition, Encoded, Fields, revealed
from vgen.conditions.pictures import picture_of
from vgen.diffusion.moment import Moment
from vgen.spec import spec

READY = "frames_latents"
"""The field that is made of pictures where the net reads latents."""


@spec
class SparseFrames(Condition):
    """``reading`` is the field that holds the pictures. ``revealed`` names the field that says which of them
    count; where it is not there all do.

    ``as_latents``: the net reads latents of the pictures, scaled as the UNet's; else the pictures themselves.
    ``scale`` 1 is as trained. A row that drops it is told nothing by it.
    """

    reading: str = "frames"
    as_latents: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or self.scale < 0:
            raise ValueError(
                f"the scale of sparse frames must be 0 or more, got {self.scale}; 1 is as trained"
            )

    def reads(self) -> tuple[str, ...]:
        return (self.reading,)

    def sparse(self) -> bool:
        return True

    def louder(self, factor: float) -> SparseFrames:
        return replace(self, scale=self.scale * factor)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """``frames_latents`` b f c h w of pictures uint8 b f 3 H W; latents stay as they are."""
        pictures = fields[self.reading]
        if not self.as_latents or READY in fields or pictures.is_floating_point():
            return Prepared()
        pixels = pictures.to(model.vae.device).float() / 127.5 - 1
        return Prepared(frames={READY: model.encode(pixels)})

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, VideoControlNet)  # the wiring's
        shown = self._shown(model, fields, picture_factor(module.control_net))
        counts = fields.get(revealed(self.reading), torch.ones(shown.shape[:2]))
        counts = _counting(counts, self.reading).to(shown)
        mask = counts[:, :, None, None, None].expand(*shown.shape[:2], 1, *shown.shape[3:])
        weight = torch.ones(len(shown), device=shown.device)
        return Encoded(
            clip={WEIGHT: weight},
            frames={"shown": torch.cat([shown * mask, mask], 2)},
            null={WEIGHT: 0 * weight[:1]},
        )

    def _shown(self, model: ImageModel, fields: Fields, factor: int) -> Tensor:
        """Latents, or pictures in [0, 1], b f c h w. Raises ValueError where they are of another size than
        the clips."""
        ready = self.as_latents and READY in fields
        given = fields[READY if ready else self.reading].to(model.vae.device)
        num_frames, height, width = _canvas(model, fields)
        if not self.as_latents:
            given = picture_of(self.reading, given, factor * height, factor * width)
        found = tuple(given.shape[axis] for axis in (1, 3, 4))
        wanted = (num_frames, factor * height, factor * width)
        if found != wanted:
            raise ValueError(
                f"{self.reading} has {found[0]} frames of {found[1]} x {found[2]} where the clips have "
                f"{wanted[0]} of {wanted[1]} x {wanted[2]}; give them in the clips' size"
            )
        return given

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        """The net sees zeros in the place of ``x``: frames that are not given hold nothing but noise."""
        assert isinstance(module, VideoControlNet)  # the wiring's
        if moment is not None and not bool(encoded.clip[WEIGHT].any()):
            return Conditioning()  # unheard in every row of this step
        text = Conditioning(so_far.text())
        said = module(torch.zeros_like(x), t, text, encoded.frames["shown"], self.scale)
        weight = encoded.clip[WEIGHT].repeat_interleave(x.shape[1])[:, None, None, None]
        return Conditioning(residuals=said.scaled(weight.to(x.dtype)))


def _counting(counts: Tensor, reading: str) -> Tensor:
    """Itself. Raises ValueError where a clip has no frame that counts."""
    if not bool(counts.any(1).all()):
        raise ValueError(
            f"no frame of {reading} is given; give one or more by their numbers, as {reading}=[0:first.png]"
        )
    return counts


def _canvas(model: ImageModel, fields: Fields) -> tuple[int, int, int]:
    """Frames, height and width of the clips in latent cells."""
    if "latents" in fields:
        _, num_frames, _, height, width = fields["latents"].shape
        return num_frames, height, width
    num_frames, height, width = fields["canvas"]
    return num_frames, height // model.vae_factor, width // model.vae_factor
