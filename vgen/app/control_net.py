"""A ControlNet as people name it: a folder of weights, and a video of what it is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vgen.attention.keys import FrameKeys
from vgen.attention.processor import route
from vgen.backbones.control_net import ControlNetModel, load_control_net, picture_factor
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.control_net import ControlNet, refuse_unfit
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip
from vgen.layers.norm import NormScope, pool_image_norms
from vgen.methods import Recipe, VideoModel
from vgen.spec import spec


@spec
class ControlNetRun:
    """``path`` is a ControlNet of the same image model in diffusers' layout, ``video`` what it is shown:
    edges, depth or poses as a clip, read as the clip itself is, at the size that the ControlNet takes.
    ``scale`` 1 is as trained, 0 unheard."""

    path: str = ""
    video: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.path, self.video = str(self.path), str(self.video)

    def __bool__(self) -> bool:
        return bool(self.path or self.video)

    def structure(
        self,
        cut: Cut,
        start_seconds: float,
        latent_px: int,
        device: torch.device,
        size: tuple[int, int] | None = None,
    ) -> Structure:
        """Weights and pictures for the clip that is ``cut`` from ``start_seconds`` on, of which a latent cell
        shows ``latent_px`` pixels; of ``size`` (height, width) where it is no square.

        Raises ValueError where either is missing or can't be used."""
        if not (self.path and self.video):
            raise ValueError(
                "a ControlNet needs its weights and what it is shown, one picture a frame; give "
                "control_net.path=FOLDER "
                f"control_net.video=FILE (got path={self.path or 'nothing'}, video={self.video or 'nothing'})"
            )
        net = load_control_net(Path(self.path).expanduser(), device)
        height, width = (
            side // latent_px * picture_factor(net) for side in size or (cut.size_px, cut.size_px)
        )
        shown = read_clip(self.video, cut, start_seconds, (height, width))
        pictures = torch.from_numpy(shown).permute(0, 3, 1, 2)[None].to(device).float() / 255
        return Structure(net=net, pictures=pictures, scale=self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A ControlNet beside the UNet for one clip: diffusers' ``net``, and ``pictures`` 1 f 3 H W in [0, 1],
    what it is shown, one per frame. ``keys`` say which frames its self-attentions read; none: each its
    own. ``norms`` is the scope of its residual blocks' norms."""

    net: ControlNetModel
    pictures: Tensor
    scale: float = 1.0
    keys: tuple[FrameKeys, ...] = ()
    norms: NormScope = NormScope.FRAME

    def run_by(self, recipe: Recipe) -> Structure:
        """With the scope of norms that the method has beside its UNet."""
        return replace(self, norms=recipe.beside_norms())

    def beside(self, video_model: VideoModel, noise: Tensor) -> dict[str, Tensor]:
        """Add it to an assembled model, as one more condition; returns the field that it reads.

        Raises ValueError where net or pictures do not go with the clip ``noise`` 1 f c h w, or where the
        model has a net of that name.
        """
        if "control" in video_model.conditions:
            raise ValueError(
                "the checkpoint has a ControlNet called control of its own; give control=FILE, what that is "
                "shown, and leave control_net out"
            )
        condition, net = ControlNet(scale=self.scale), VideoControlNet(self.net)
        refuse_unfit(net, video_model.unet, self.pictures, noise)
        route(net).keys = self.keys
        if self.norms is NormScope.CLIP:
            pool_image_norms(net)
        video_model.modules["control"] = net
        video_model.conditions["control"] = condition
        return {condition.reading: self.pictures}
