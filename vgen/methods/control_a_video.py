"""Control-A-Video: clips along edges, depth or poses, from a ControlNet and a UNet that learn motion (Chen et
al. 2023).

Convolutions over frames stand behind those over the picture, attention over frames behind every feed-forward,
in the UNet and in the ControlNet, and self-attention reads all frames; the image weights stay frozen. A
trained ControlNet lies beneath, as stack.NAME.file=RUN. The first frame is given clean: a person's
``reference``, or one that is drawn alone. What stands still in the clip ``source`` keeps its noise. Longer
clips are drawn in pieces of sampling.window.num_frames, each from the last frame of the one before. The
paper's rewards (ST-ReFL) are left out: no code of them was released, nor of any training.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.control_net import encoder_copy
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Where, after
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.control_net import ControlNet
from vgen.conditions.first_frame import FirstFrame
from vgen.conditions.text import Text
from vgen.diffusion.guidance import TEXT, TIME, Drop, Nested, check_scale
from vgen.diffusion.motion_noise import Flow, Residual
from vgen.diffusion.start import Iid, Start
from vgen.formats.control_a_video import PseudoVideoFolder
from vgen.formats.foreign import Foreign
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import ClipAttentionSpec
from vgen.layers.temporal_conv import TemporalConvSpec
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import UNET, Conditioned, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, field, spec


class Structure(Choice):
    """The field that the ControlNet is shown; ``control`` are pictures as they are."""

    EDGES = "edges"
    SCRIBBLE = "scribble"
    DEPTH = "depth"
    POSE = "pose"
    CONTROL = "control"


class MotionNoise(Choice):
    """How noises of frames belong together: ``iid`` each its own, ``residual`` by what has changed in
    ``source``, ``flow`` along the field ``flow``."""

    IID = "iid"
    RESIDUAL = "residual"
    FLOW = "flow"


@method(
    "control_a_video",
    paper=Paper(
        "Control-A-Video: Controllable Text-to-Video Generation with Diffusion Models", "2305.13840", 2023
    ),
    regime=Regime.CORPUS,
)
@spec
class ControlAVideo(Recipe):
    """``video_guidance`` is the scale by which clips differ from their frames drawn apart; ``threshold`` the
    share of the greatest change above which a place gets new noise."""

    formats: ClassVar[tuple[Foreign, ...]] = (PseudoVideoFolder(),)
    condition: Structure = Structure.EDGES
    temporal: ClipAttentionSpec = field(default_factory=ClipAttentionSpec)
    convolution: TemporalConvSpec = field(default_factory=TemporalConvSpec)
    noise: MotionNoise = MotionNoise.RESIDUAL
    threshold: float = 0.1
    video_guidance: float = 1.5
    text_drop: float = 0.1
    image_norm_scope: NormScope = NormScope.CLIP

    def __post_init__(self) -> None:
        check_scale(self.video_guidance)
        check_training_draws(self.text_drop, 1.0)
        Residual(threshold=self.threshold)

    def conditions(self) -> dict[str, Conditioned]:
        name = self.condition.value
        shown = Conditioned(ControlNet(reading=name), module=_beside)
        first = Conditioned(FirstFrame(), optional=True)
        return {TEXT: Conditioned(Text()), name: shown, "first_frame": first}

    def reads(self) -> dict[str, bool]:
        """The flow too, where noise follows it in training."""
        flow = {"flow": False} if self.noise is MotionNoise.FLOW else {}
        return {**Recipe.reads(self), **flow}

    def insertions(self) -> list[Insertion]:
        nets = (UNET, self.condition.value)
        attentions = [Insertion(after(Kind.BLOCK), self.temporal, net) for net in nets]
        return [*attentions, *(Insertion(_convolutions(), self.convolution, net) for net in nets)]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        nets = (UNET, self.condition.value)
        return {net: [FrameKeys(frames=[Frame.ALL])] for net in nets}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def beside_norms(self) -> NormScope:
        return self.image_norm_scope

    def start(self) -> Start:
        match self.noise:
            case MotionNoise.IID:
                return Iid()
            case MotionNoise.RESIDUAL:
                return Residual(threshold=self.threshold)
            case MotionNoise.FLOW:
                return Flow()

    def keeps_first_frame(self) -> bool:
        return True

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), noise=self.start(), keeps_first_frame=True)

    def guidance(self, scale: float) -> Nested:
        return Nested(conditions=[TIME, TEXT], scales=[self.video_guidance, scale])

    def sampling(self) -> Sampling:
        return Sampling(num_frames=8, num_steps=20, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-5, weight_decay=1e-2)

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*", f"{self.condition.value}.inserted.*")


def _convolutions() -> Where:
    """All but those of one pixel."""
    kinds = [Kind.CONV_IN, Kind.CONV_OUT, Kind.HINT, Kind.CONV]
    return Where(
        kinds=kinds, paths=["conv_in", "conv_out", "*.conv", "*.conv1", "*.conv2", "controlnet_cond_*"]
    )


def _beside(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(encoder_copy(model.unet, model.vae_factor))
