"""Make-A-Video's super-resolution: a clip drawn again with more pixels, from the small one beside x (Singer
et al. 2022, section 3.2).

The first kind sees space and time, through the layers over frames of ``method=make_a_video``. The second
sees space alone, since memory allows no more; all its frames start from one noise, so that what it invents
stays where it is. Each is a stage behind others: ``cascade.NAME.file=RUN``.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.conditions.low_resolution import LowResolution
from vgen.conditions.text import Text
from vgen.diffusion.guidance import TEXT, Drop
from vgen.diffusion.start import Iid, Shared, Start
from vgen.layers.pseudo3d import CONVOLUTIONS, PseudoAttentionSpec, PseudoConvSpec
from vgen.layers.widened import Widened
from vgen.methods._cascade import Enlarges, Follows
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, Writes, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

LOW = "low"


@method(
    "make_a_video_upsampler",
    paper=Paper("Make-A-Video: Text-to-Video Generation without Text-Video Data", "2209.14792", 2022),
    regime=Regime.CORPUS,
)
@spec
class MakeAVideoUpsampler(Recipe):
    """``low`` says by how much it enlarges. ``over_frames`` false leaves the layers over frames out."""

    low: LowResolution = field(default_factory=LowResolution)
    over_frames: bool = True
    conv: PseudoConvSpec = field(default_factory=PseudoConvSpec)
    attention: PseudoAttentionSpec = field(default_factory=PseudoAttentionSpec)
    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def insertions(self) -> list[Insertion]:
        beside = Insertion(after(Kind.CONV_IN), Widened(reading=self.low.beside), name=LOW)
        if not self.over_frames:
            return [beside]
        return [
            beside,
            Insertion(CONVOLUTIONS, self.conv),
            Insertion(after(Kind.ATTN1), self.attention),
        ]

    def conditions(self) -> dict[str, Conditioned]:
        return {TEXT: Conditioned(Text(), optional=True), LOW: Conditioned(self.low)}

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift)

    def start(self) -> Start:
        return Iid() if self.over_frames else Shared()

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
        return Training(lr=1e-5, weight_decay=1e-2)
