"""Make-A-Video: an image model that learns motion from clips without captions (Singer et al. 2022).

Behind every convolution of pixels stands one over frames, behind every self-attention one over frames; the
first are Dirac's at birth, the second zero, and a still passes both as it is. The whole UNet learns, from
captioned stills and from clips whose captions stay unheard, so words and looks come from pictures and motion
from video. The frame rate is told beside diffusion time, and falls in the course of training. ``context``
makes a frame interpolator or extrapolator of it, which reads given frames and a mask beside x. The paper's
cascade works in pixels, from embeddings of a prior; this one works in the latents of the image model, from
its text.
"""

from __future__ import annotations

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.conditions.context_frames import GivenFrames, WhichFrames
from vgen.conditions.fps import FPS, FrameRate, FrameRates
from vgen.conditions.masked_frames import MaskedFrames
from vgen.conditions.text import Text
from vgen.diffusion.guidance import CONTEXT, TEXT, Drop
from vgen.layers.fps_embedding import FpsEmbeddingSpec
from vgen.layers.pseudo3d import CONVOLUTIONS, PseudoAttentionSpec, PseudoConvSpec
from vgen.layers.widened import Widened
from vgen.methods._cascade import Follows, follows
from vgen.methods._frame_rates import StillsAndClips
from vgen.methods._objectives import check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, Writes, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

MASKED = "masked"


def skipped_frames() -> GivenFrames:
    """The paper's interpolator fills four frames between two, 16 to 76; off unless ``which`` says so."""
    return GivenFrames(factor=5)


@method(
    "make_a_video",
    paper=Paper("Make-A-Video: Text-to-Video Generation without Text-Video Data", "2209.14792", 2022),
    regime=Regime.CORPUS,
)
@spec
class MakeAVideo(Recipe):
    """``rates`` draws the frame rates of training, ``unlabelled`` leaves the captions of clips unheard.
    Stills come from ``data.stills``, in a share ``data.stills_share`` of the batches."""

    conv: PseudoConvSpec = field(default_factory=PseudoConvSpec)
    attention: PseudoAttentionSpec = field(default_factory=PseudoAttentionSpec)
    fps: FpsEmbeddingSpec = field(default_factory=FpsEmbeddingSpec)
    rates: FrameRates = field(default_factory=FrameRates)
    context: GivenFrames = field(default_factory=skipped_frames)
    unlabelled: bool = True
    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def insertions(self) -> list[Insertion]:
        beside = Insertion(after(Kind.CONV_IN), Widened(reading=MASKED, extra=1), name=MASKED)
        return [
            *([] if self.context.which is WhichFrames.NONE else [beside]),
            Insertion(CONVOLUTIONS, self.conv),
            Insertion(after(Kind.ATTN1), self.attention),
        ]

    def conditions(self) -> dict[str, Conditioned]:
        rate = Insertion(after(Kind.TIME_EMBEDDING), self.fps)
        heard = {
            TEXT: Conditioned(Text(), optional=True),
            FPS: Conditioned(FrameRate(), insertions=(rate,), optional=True),
        }
        if self.context.which is WhichFrames.NONE:
            return heard
        return {**heard, CONTEXT: Conditioned(MaskedFrames(beside=MASKED))}

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> StillsAndClips:
        given = None if self.context.which is WhichFrames.NONE else self.context
        return StillsAndClips(
            dropout=self.dropout(),
            timestep_shift=self.timestep_shift,
            given_frames=given,
            rates=self.rates,
            unlabelled=self.unlabelled,
        )

    def follows(self) -> Follows | None:
        return follows(self.context)

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*", "unet.inserted.*")

    def writes(self) -> Writes:
        """An adapter with the whole UNet in it: without its layers over frames that UNet knows no motion."""
        return Writes(adapter=True, image_model=False)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=16, num_steps=50, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-5, weight_decay=1e-2)
