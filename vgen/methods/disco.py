"""DisCo: a person of one picture dances along poses, before a background of another (Wang et al. 2023).

The person stands in the place of words: CLIP's tokens by a matrix, for the UNet and for two ControlNets, of
which one is shown the pose, the other the background's latents. Frames are drawn apart, but for the layers
over frames of the stage ``temporal``. Each stage lies upon the one before: ``stack.before.file=RUN``. What it
reads is a picture of the person, one of the background and poses: ``vgen prepare
fields=[pose,reference,background]``.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.control_net import encoder_copy, latent_encoder_copy
from vgen.backbones.image_model import ImageModel
from vgen.backbones.picture_tokens import token_projection
from vgen.backbones.sites import Kind, Where, after
from vgen.backbones.video_unet import VideoControlNet
from vgen.conditions.background import Background
from vgen.conditions.control_net import ControlNet
from vgen.conditions.person_tokens import PersonTokens
from vgen.diffusion.guidance import POSE, TEXT, Drop
from vgen.layers.temporal_attention import AttentionBeforeWordsSpec
from vgen.layers.temporal_conv import ResidualTemporalConvSpec
from vgen.methods._recipe import (
    UNET,
    Conditioned,
    Insertion,
    Paper,
    Recipe,
    Regime,
    Training,
    Writes,
    method,
)
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, field, spec

BACKGROUND = "background"
BESIDE = (f"{TEXT}.*", f"{BACKGROUND}.control_net.*")
"""What learns in every stage: the matrix of tokens, and the background's net."""


class Lesson(Choice):
    """The stages. ``attributes``: people and backgrounds on stills, without poses; ``dance``: everything;
    ``temporal``: layers over frames with it; ``subject``: one person, poses as they were."""

    ATTRIBUTES = "attributes"
    DANCE = "dance"
    TEMPORAL = "temporal"
    SUBJECT = "subject"


UNET_PARTS = {
    Lesson.ATTRIBUTES: "unet.image_unet.*.transformer_blocks.*",
    Lesson.DANCE: "unet.image_unet.*",
    Lesson.TEMPORAL: "unet.image_unet.*",
    Lesson.SUBJECT: "unet.image_unet.*.attn2.*",
}
"""What learns of the UNet, by stage."""
RATES = {Lesson.ATTRIBUTES: 1e-3, Lesson.DANCE: 2e-4, Lesson.TEMPORAL: 1e-4, Lesson.SUBJECT: 1e-3}


@method(
    "disco",
    paper=Paper("DisCo: Disentangled Control for Realistic Human Dance Generation", "2307.00040", 2023),
    regime=Regime.CORPUS,
)
@spec
class DisCo(Recipe):
    """``drop`` is the share of the clips that see no person."""

    leads: ClassVar[bool] = False
    lesson: Lesson = Lesson.DANCE
    temporal: AttentionBeforeWordsSpec = field(default_factory=AttentionBeforeWordsSpec)
    convolution: ResidualTemporalConvSpec = field(default_factory=ResidualTemporalConvSpec)
    drop: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(
                f"drop is the share of the clips that see no person, in 0..1, got {self.drop:g}; the paper's "
                "is .05"
            )

    def conditions(self) -> dict[str, Conditioned]:
        seen = {
            TEXT: Conditioned(PersonTokens(), module=token_projection),
            BACKGROUND: Conditioned(Background(), module=_of_latents),
        }
        if self.lesson is Lesson.ATTRIBUTES:
            return seen
        return {**seen, POSE: Conditioned(ControlNet(reading=POSE), module=_of_pictures)}

    def insertions(self) -> list[Insertion]:
        if self.lesson is not Lesson.TEMPORAL:
            return []
        nets = (UNET, BACKGROUND, POSE)
        attentions = [Insertion(after(Kind.ATTN1), self.temporal, net) for net in nets]
        return [*attentions, *(Insertion(_second_convolutions(), self.convolution, net) for net in nets)]

    def dropout(self) -> list[Drop]:
        return [Drop(self.drop, frozenset({TEXT}))] if self.drop else []

    def learns(self) -> tuple[str, ...]:
        own = (UNET_PARTS[self.lesson], *BESIDE)
        match self.lesson:
            case Lesson.ATTRIBUTES | Lesson.SUBJECT:
                return own
            case Lesson.DANCE:
                return (*own, f"{POSE}.control_net.*")
            case Lesson.TEMPORAL:
                inserted = (f"{net}.inserted.*" for net in (UNET, BACKGROUND, POSE))
                return (*own, f"{POSE}.control_net.*", *inserted)

    def writes(self) -> Writes:
        """An adapter with what learnt of the UNet in it: without person and background that is no image
        model."""
        return Writes(adapter=True, image_model=False)

    def training(self) -> Training:
        return Training(lr=RATES[self.lesson], weight_decay=1e-2)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=1.5 if self.drop else 3.0)


def _second_convolutions() -> Where:
    """The last convolution of every residual block."""
    return Where(kinds=[Kind.CONV], paths=["*.resnets.*.conv2"])


def _of_latents(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(latent_encoder_copy(model.unet))


def _of_pictures(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(encoder_copy(model.unet, model.vae_factor))
