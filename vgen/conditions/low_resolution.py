"""The same clip in fewer pixels, beside x: what an upsampler enlarges (Singer et al. 2022, Make-A-Video,
section 3.2; the latents of the small clip, as Stable Diffusion's latent upscaler takes them)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.moment import Moment
from vgen.shapes import fold, unfold
from vgen.spec import spec

LOW = "low_latents"
"""The field: latents of the small clip, b f c h w, each cell as many as it takes to fill the large one."""


@spec
class LowResolution(Condition):
    """Says ``low_latents`` as ``concat`` of the name ``beside``. No row drops it.

    It reads no field of a sample: training reduces the clip itself, sides by ``factor``, and a cascade hands
    over what an earlier stage drew.
    """

    beside: str = "low"
    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"an upsampler's factor is at least 2, got {self.factor}")

    def reads(self) -> tuple[str, ...]:
        return ()

    def fingerprint(self, model: ImageModel) -> str:
        return f"latents of the clip, sides divided by {self.factor}"

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """``low_latents`` of ``video`` uint8 b f 3 H W. Raises ValueError where the small clip's sides are no
        whole latent cells."""
        video = fields.get("video")
        if LOW in fields or video is None:
            return Prepared()
        step, sides = self.factor * model.vae_factor, video.shape[-2:]
        if sides[0] % step or sides[1] % step:
            raise ValueError(
                f"clips of {sides[1]} x {sides[0]} px can't be reduced by {self.factor} for this image "
                "model; give "
                f"sides that are multiples of {step}"
            )
        pixels = fold(video.to(model.vae.device).float() / 127.5 - 1)
        small = F.interpolate(pixels, scale_factor=1 / self.factor, mode="area")
        return Prepared(
            frames={LOW: enlarged_latents(model.encode(unfold(small, video.shape[1])), self.factor)}
        )

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        return Encoded(frames={LOW: fields[LOW]}) if LOW in fields else Encoded()

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        if LOW not in encoded.frames:
            return Conditioning()
        low = encoded.frames[LOW].to(x)
        return Conditioning(concat={self.beside: low.expand(len(x), *low.shape[1:])})


def enlarged_latents(latents: Tensor, factor: int) -> Tensor:
    """Every cell of b f c h w as ``factor`` x ``factor`` of them."""
    return latents.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
