"""SparseCtrl: clips that hold some given frames, as pictures or as scribbles, whatever their places (Guo et
al. 2023).

The net is a copy of the image UNet's encoder with one attention over frames behind every block. It sees the
given frames and a mask of their places, zeros for all others, and never the noisy clip. It speaks to a motion
module that stays as it is: ``stack.motion.file=... stack.sparse.file=... frames=[0:first.png,15:last.png]``.
Training lies over that module too. It was never released: how many frames it shows, by chance from one to
all, is a guess.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Stage, after
from vgen.backbones.sparse_encoder import sparse_encoder
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.sparse_frames import SparseFrames
from vgen.conditions.text import Text
from vgen.diffusion.guidance import TEXT, Drop
from vgen.formats.foreign import Foreign
from vgen.formats.sparse_ctrl import SparseFile, SparseFolder
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, field, spec


class Given(Choice):
    """What the frames are given as: their own pictures, or scribbles of them."""

    FRAMES = "frames"
    SCRIBBLE = "scribble"


@method(
    "sparse_ctrl",
    paper=Paper("SparseCtrl: Adding Sparse Controls to Text-to-Video Diffusion Models", "2311.16933", 2023),
    regime=Regime.CORPUS,
)
@spec
class SparseCtrl(Recipe):
    """``condition`` names the field, the condition and the net; ``motion`` are the net's own layers over
    frames."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (SparseFolder(), SparseFile())
    condition: Given = Given.FRAMES
    motion: MotionModuleSpec = field(default_factory=lambda: MotionModuleSpec(num_attentions=1))
    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def conditions(self) -> dict[str, Conditioned]:
        name = self.condition.value
        shown = SparseFrames(reading=name, as_latents=self.condition is Given.FRAMES)
        over_frames = Insertion(after(Kind.PAIR, stages=[Stage.DOWN]), self.motion, into=name)
        own = Conditioned(shown, module=partial(_beside, self), insertions=(over_frames,))
        return {TEXT: Conditioned(Text()), name: own}

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(
            dropout=self.dropout(), timestep_shift=self.timestep_shift, reveals=self.condition.value
        )

    def sampling(self) -> Sampling:
        return Sampling(num_steps=25, guidance=8.5)

    def learns(self) -> tuple[str, ...]:
        """All but the first convolution's weight, which is only ever given zeros."""
        parts = ("conv_in.bias", "time_embedding.*", "down_blocks.*", "mid_block.*", "controlnet_*")
        net = self.condition.value
        return (*(f"{net}.control_net.{part}" for part in parts), f"{net}.inserted.*")


def _beside(recipe: SparseCtrl, model: ImageModel) -> VideoControlNet:
    as_latents = recipe.condition is Given.FRAMES
    return VideoControlNet(sparse_encoder(model.unet, 1 if as_latents else model.vae_factor))
