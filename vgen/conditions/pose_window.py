"""The poses before, at and after each frame, as channels beside x (DreamPose, Karras et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.figures import refuse_crowd
from vgen.conditions.pictures import picture_of
from vgen.diffusion.moment import Moment
from vgen.shapes import fold, unfold
from vgen.spec import Choice, spec

CHANNELS = 2
"""Of one pose: U and V of DensePose, or hue and brightness of a skeleton."""


class PoseSource(Choice):
    """The field that is looked at: ``pose`` holds key points or pictures of skeletons, ``control``
    DensePose's pictures, whose channels are the part of the body, U and V."""

    POSE = "pose"
    CONTROL = "control"


@spec
class PoseWindow(Condition):
    """``radius`` poses before and after each frame are seen with its own, as ``concat`` of the name
    ``beside``; where a clip has none, the frame's own stands in. A row that drops it reads zeros, which no
    pose is: the ground of a pose is -1.
    """

    reading: PoseSource = PoseSource.POSE
    radius: int = 2
    beside: str = "pose"

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise ValueError(
                f"a window's radius must be 0 or more poses, got {self.radius}; the paper's is 2"
            )

    def channels(self) -> int:
        """Beside x."""
        return CHANNELS * (2 * self.radius + 1)

    def reads(self) -> tuple[str, ...]:
        return (self.reading.value,)

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        h, w = _cells(model, fields)
        name = self.reading.value
        if self.reading is PoseSource.POSE:
            if "latents" not in fields:
                refuse_crowd(fields[name])
            maps = skeleton_map(picture_of(name, fields[name], h, w), h, w)
        else:
            maps = dense_map(picture_of(name, fields[name], h, w), h, w)
        window = neighbours(maps, self.radius)
        return Encoded(frames={"window": window}, null={"window": torch.zeros_like(window[:1, :1])})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(concat={self.beside: encoded.frames["window"].to(x)})


def _cells(model: ImageModel, fields: Fields) -> tuple[int, int]:
    """Height and width in latent cells: of the clips' latents, or of those to be drawn."""
    if "latents" in fields:
        height, width = fields["latents"].shape[-2:]
        return height, width
    _, height, width = fields["canvas"]
    return height // model.vae_factor, width // model.vae_factor


def dense_map(pictures: Tensor, h: int, w: int) -> Tensor:
    """U and V in [-1, 1], b f 2 h w, of the nearest pixel to every cell; ``pictures`` b f 3 H W in [0, 1]."""
    flat = F.interpolate(fold(pictures)[:, 1:].float(), (h, w))
    return unfold(2 * flat - 1, pictures.shape[1])


def skeleton_map(pictures: Tensor, h: int, w: int) -> Tensor:
    """Hue and brightness in [-1, 1], b f 2 h w, of the brightest pixel in every cell: thin limbs are not
    lost.

    The hue says which limb it is, the brightness that there is one.
    """
    flat = fold(pictures).float()
    bright, at = F.adaptive_max_pool2d(flat.amax(1), (h, w), return_indices=True)
    of_limb = hue(flat).flatten(1).gather(1, at.flatten(1)).view_as(bright)
    return unfold(2 * torch.stack([of_limb, bright], 1) - 1, pictures.shape[1])


def hue(colours: Tensor) -> Tensor:
    """n h w in [0, 1), red at 0, of ``colours`` n 3 h w; grey has 0."""
    high, low = colours.amax(1), colours.amin(1)
    red, green, blue = colours.unbind(1)
    span = (high - low).clamp_min(1e-6)
    sixth = torch.where(
        high == red,
        (green - blue) / span,
        torch.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    return (sixth / 6) % 1


def neighbours(maps: Tensor, radius: int) -> Tensor:
    """Each frame's channels with those of the frames around it, b f ((2 radius + 1) c) h w; past the ends of
    the clip the frame's own."""
    num_frames = maps.shape[1]
    own = torch.arange(num_frames, device=maps.device)[:, None]
    at = own + torch.arange(-radius, radius + 1, device=maps.device)
    at = torch.where((at >= 0) & (at < num_frames), at, own)
    return maps[:, at].flatten(2, 3)
