"""A ControlNet as people name it: a folder of weights, and a video of what it is shown."""

from __future__ import annotations

from pathlib import Path

import torch

from vgen.backbones.control_net import load_control_net, picture_factor
from vgen.data.decode import Cut
from vgen.data.one_clip import read_clip
from vgen.methods._structure import Structure
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

    def structure(self, cut: Cut, start_seconds: float, latent_px: int, device: torch.device) -> Structure:
        """Weights and pictures for the clip that is ``cut`` from ``start_seconds`` on, of which a latent cell
        shows ``latent_px`` pixels.

        Raises ValueError where either is missing or can't be used."""
        if not (self.path and self.video):
            raise ValueError(
                "a ControlNet needs its weights and what it is shown, one picture a frame; give "
                "control_net.path=FOLDER "
                f"control_net.video=FILE (got path={self.path or 'nothing'}, video={self.video or 'nothing'})"
            )
        net = load_control_net(Path(self.path).expanduser(), device)
        as_taken = Cut(
            fps=cut.fps, num_frames=cut.num_frames, size_px=cut.size_px // latent_px * picture_factor(net)
        )
        shown = read_clip(self.video, as_taken, start_seconds)
        return Structure(
            net=net,
            pictures=torch.from_numpy(shown).permute(0, 3, 1, 2)[None].to(device).float() / 255,
            scale=self.scale,
        )
