"""Align your Latents' upsampler: a clip drawn again with sides four times as long, a few frames at a time
(Blattmann et al. 2023, section 3.4).

The layers over frames are those of ``method=align_your_latents``, and the small clip's latents lie beside x.
The paper puts these layers into an upsampler of pictures, which stays frozen; here the image model learns
with them, since it is none yet. It is a stage behind others: ``cascade.NAME.file=RUN``.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.conditions.low_resolution import LowResolution
from vgen.conditions.text import Text
from vgen.diffusion.frames import FrameSchedule, Sliding
from vgen.diffusion.guidance import TEXT, Drop
from vgen.layers.mixed_attention import MixedAttentionSpec
from vgen.layers.mixed_conv import MixedConvSpec
from vgen.layers.widened import Widened
from vgen.methods._cascade import Enlarges, Follows
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, Writes, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

LOW = "low"
WINDOW = 8
"""The most frames that the paper's attention sees together."""


def four_times() -> LowResolution:
    """The paper's enlargement."""
    return LowResolution(factor=4)


@method(
    "align_your_latents_upsampler",
    paper=Paper(
        "Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models", "2304.08818", 2023
    ),
    regime=Regime.CORPUS,
)
@spec
class AlignYourLatentsUpsampler(Recipe):
    """``low`` says by how much it enlarges, ``window`` how many frames are seen together where a person does
    not say."""

    low: LowResolution = field(default_factory=four_times)
    conv: MixedConvSpec = field(default_factory=MixedConvSpec)
    attention: MixedAttentionSpec = field(default_factory=MixedAttentionSpec)
    window: int = WINDOW
    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)
        if self.window < 1:
            raise ValueError(f"window must be at least 1 frame, got {self.window}; the paper's is {WINDOW}")

    def insertions(self) -> list[Insertion]:
        return [
            Insertion(after(Kind.CONV_IN), Widened(reading=self.low.beside)),
            Insertion(after(Kind.RESNET), self.conv),
            Insertion(after(Kind.BLOCK), self.attention),
        ]

    def conditions(self) -> dict[str, Conditioned]:
        return {TEXT: Conditioned(Text()), LOW: Conditioned(self.low)}

    def frame_schedule(self, window: Sliding) -> FrameSchedule:
        return window if window.num_frames else Sliding(num_frames=self.window)

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift)

    def follows(self) -> Follows:
        return Enlarges(self.low.factor)

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*", "unet.inserted.*")

    def writes(self) -> Writes:
        """An adapter with the whole UNet in it."""
        return Writes(adapter=True, image_model=False)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=16, num_steps=50, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)
