"""DisCo: a person of one picture dances along poses, before a background of another (Wang et al. 2023).

The person stands in the place of words: CLIP's tokens by a matrix, for the UNet and for two ControlNets, of
which one is shown the pose, the other the background's latents. ``disco`` learns people on stills, dances,
or one person, and draws frames apart; ``disco_temporal`` learns layers over frames with all that. Each stage
lies upon the one before: ``stack.dance.file=RUN``. What they read is a picture of the person, one of the
background, and poses: ``vgen prepare fields=[pose,reference,background]``.
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
from vgen.layers.norm import NormScope
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

PAPER = Paper("DisCo: Disentangled Control for Realistic Human Dance Generation", "2307.00040", 2023)
BACKGROUND = "background"


class Lesson(Choice):
    """The stages on pictures. ``attributes``: people and backgrounds, without poses; ``dance``: everything;
    ``subject``: one person, with poses as they were."""

    ATTRIBUTES = "attributes"
    DANCE = "dance"
    SUBJECT = "subject"


OF_UNET = {
    Lesson.ATTRIBUTES: "unet.image_unet.*.transformer_blocks.*",
    Lesson.DANCE: "unet.image_unet.*",
    Lesson.SUBJECT: "unet.image_unet.*.attn2.*",
}
"""What learns of the UNet, by stage."""
RATES = {Lesson.ATTRIBUTES: 1e-3, Lesson.DANCE: 2e-4, Lesson.SUBJECT: 1e-3}
ALWAYS = (f"{TEXT}.*", f"{BACKGROUND}.control_net.*")
"""What learns in every stage: the matrix of tokens, and the background's net."""
WHOLE = (OF_UNET[Lesson.DANCE], *ALWAYS, f"{POSE}.control_net.*")


@method("disco", paper=PAPER, regime=Regime.CORPUS)
@spec
class DisCo(Recipe):
    """``drop`` is the share of the clips that see no person."""

    leads: ClassVar[bool] = False
    lesson: Lesson = Lesson.DANCE
    drop: float = 0.05

    def __post_init__(self) -> None:
        _refuse_no_share(self.drop)

    def conditions(self) -> dict[str, Conditioned]:
        return _seen() if self.lesson is Lesson.ATTRIBUTES else {**_seen(), **_posed()}

    def dropout(self) -> list[Drop]:
        return _without_person(self.drop)

    def learns(self) -> tuple[str, ...]:
        return WHOLE if self.lesson is Lesson.DANCE else (OF_UNET[self.lesson], *ALWAYS)

    def writes(self) -> Writes:
        """An adapter with what learnt of the UNet in it: without person and background that is no image
        model."""
        return Writes(adapter=True, image_model=False)

    def training(self) -> Training:
        return Training(lr=RATES[self.lesson], weight_decay=1e-2)

    def sampling(self) -> Sampling:
        return _drawing(self.drop)


@method("disco_temporal", paper=PAPER, regime=Regime.CORPUS)
@spec
class DisCoTemporal(Recipe):
    """``temporal`` stands between self-attention and cross-attention, ``convolution`` in every residual
    block, of the UNet and of both nets."""

    temporal: AttentionBeforeWordsSpec = field(default_factory=AttentionBeforeWordsSpec)
    convolution: ResidualTemporalConvSpec = field(default_factory=ResidualTemporalConvSpec)
    drop: float = 0.05
    image_norm_scope: NormScope = NormScope.CLIP

    def __post_init__(self) -> None:
        _refuse_no_share(self.drop)

    def conditions(self) -> dict[str, Conditioned]:
        return {**_seen(), **_posed()}

    def insertions(self) -> list[Insertion]:
        nets, last = (UNET, BACKGROUND, POSE), Where(kinds=[Kind.CONV], paths=["*.resnets.*.conv2"])
        attentions = [Insertion(after(Kind.ATTN1), self.temporal, net) for net in nets]
        return [*attentions, *(Insertion(last, self.convolution, net) for net in nets)]

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def beside_norms(self) -> NormScope:
        return self.image_norm_scope

    def dropout(self) -> list[Drop]:
        return _without_person(self.drop)

    def learns(self) -> tuple[str, ...]:
        return (*WHOLE, *(f"{net}.inserted.*" for net in (UNET, BACKGROUND, POSE)))

    def writes(self) -> Writes:
        """An adapter, as the stages before."""
        return Writes(adapter=True, image_model=False)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)

    def sampling(self) -> Sampling:
        return _drawing(self.drop)


def _seen() -> dict[str, Conditioned]:
    """A person and a background."""
    return {
        TEXT: Conditioned(PersonTokens(), module=token_projection),
        BACKGROUND: Conditioned(Background(), module=_of_latents),
    }


def _posed() -> dict[str, Conditioned]:
    return {POSE: Conditioned(ControlNet(reading=POSE, one_person=True), module=_of_pictures)}


def _of_latents(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(latent_encoder_copy(model.unet))


def _of_pictures(model: ImageModel) -> VideoControlNet:
    return VideoControlNet(encoder_copy(model.unet, model.vae_factor))


def _without_person(share: float) -> list[Drop]:
    return [Drop(share, frozenset({TEXT}))] if share else []


def _drawing(share: float) -> Sampling:
    """The released scales, with dropout in training and without."""
    return Sampling(num_steps=50, guidance=1.5 if share else 3.0)


def _refuse_no_share(share: float) -> None:
    """Raises ValueError for what is no share."""
    if not 0 <= share <= 1:
        raise ValueError(
            f"drop is the share of the clips that see no person, in 0..1, got {share:g}; the paper's is .05"
        )
