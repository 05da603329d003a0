"""ControlNet: a copy of the image UNet's encoder that learns to keep pictures to edges, poses or depth
(Zhang et al. 2023).

It starts as the encoder itself behind zero convolutions, so that the image model begins unchanged. Half of
the captions are dropped, so that it learns to see what a caption does not say (section 3.3). It sees frames
one by one: beside a motion module (``stack.motion.file=RUN``) its clips move as one. To start from a
published ControlNet, import it and give it as ``run.init_from``.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.control_net import encoder_copy
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.control_net import ControlNet
from vgen.conditions.text import Text
from vgen.diffusion.guidance import Drop
from vgen.formats.control_net import ControlNetFolder
from vgen.formats.foreign import Foreign
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, spec


class Shown(Choice):
    """The field that it is shown; ``control`` are pictures as they are."""

    EDGES = "edges"
    SCRIBBLE = "scribble"
    POSE = "pose"
    DEPTH = "depth"
    FLOW = "flow"
    MASK = "mask"
    CONTROL = "control"


@method(
    "control_net",
    paper=Paper("Adding Conditional Control to Text-to-Image Diffusion Models", "2302.05543", 2023),
    regime=Regime.CORPUS,
)
@spec
class ControlNets(Recipe):
    """``condition`` names the field, the condition and the net: several go together where theirs differ."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (ControlNetFolder(),)
    condition: Shown = Shown.EDGES
    text_drop: float = 0.5
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def conditions(self) -> dict[str, Conditioned]:
        shown = ControlNet(reading=self.condition.value)
        return {"text": Conditioned(Text()), self.condition.value: Conditioned(shown, module=_beside)}

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=1, num_steps=20, guidance=9.0)

    def training(self) -> Training:
        return Training(lr=1e-5, weight_decay=1e-2)

    def learns(self) -> tuple[str, ...]:
        return (f"{self.condition.value}.control_net.*",)


def _beside(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(encoder_copy(model.unet, model.vae_factor))
