"""Align your Latents: layers over frames in a frozen image UNet, each mixed with the layer before it
(Blattmann et al. 2023).

Convolutions over frames stand behind every residual block, attention over frames and to the text behind
every transformer block. A learnt share alpha mixes each with what the image model says; it is 1 at birth,
where the image model is left alone. Frames of the clip may be given: the first ones make a prediction model,
every fourth an interpolation model. The layers are those of Stable Video Diffusion, whose checkpoints are
read. The paper's first stage, in which the image UNet sees frames of videos, is ``method=latent_diffusion``;
its decoder over frames is ``method=align_your_latents_decoder``.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.context_net import context_net
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.conditions.context_frames import ContextFrames, GivenFrames, WhichFrames
from vgen.conditions.text import Text
from vgen.diffusion.guidance import CONTEXT, TEXT, Cfg, Drop, Dual, Guidance, check_scale
from vgen.formats.foreign import Foreign
from vgen.formats.stable_video import StableVideoUNet
from vgen.layers.mixed_attention import MixedAttentionSpec
from vgen.layers.mixed_conv import MixedConvSpec
from vgen.methods._cascade import Follows, follows
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "align_your_latents",
    paper=Paper(
        "Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models", "2304.08818", 2023
    ),
    regime=Regime.CORPUS,
)
@spec
class AlignYourLatents(Recipe):
    """``context`` says which frames are given, ``context_drop`` the share of the training clips that are told
    of none, once with and once without their text, ``context_guidance`` how much drawing holds to them."""

    formats: ClassVar[tuple[Foreign, ...]] = (StableVideoUNet(),)
    conv: MixedConvSpec = field(default_factory=MixedConvSpec)
    attention: MixedAttentionSpec = field(default_factory=MixedAttentionSpec)
    context: GivenFrames = field(default_factory=GivenFrames)
    text_drop: float = 0.1
    context_drop: float = 0.1
    context_guidance: float = 1.0
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)
        check_scale(self.context_guidance)
        if not 0 <= 2 * self.context_drop <= 1 - self.text_drop:
            raise ValueError(
                f"context_drop is taken twice beside text_drop={self.text_drop:g}, all of them at most 1, "
                f"got {self.context_drop:g}; the usual value is 0.1"
            )

    def insertions(self) -> list[Insertion]:
        return [
            Insertion(after(Kind.RESNET), self.conv),
            Insertion(after(Kind.BLOCK), self.attention),
        ]

    def conditions(self) -> dict[str, Conditioned]:
        text = {TEXT: Conditioned(Text())}
        if self.context.which is WhichFrames.NONE:
            return text
        told = ContextFrames(reading=self.conv.reading)
        return {**text, CONTEXT: Conditioned(told, module=context_net)}

    def dropout(self) -> list[Drop]:
        drops = share_of_text(self.text_drop)
        if self.context.which is not WhichFrames.NONE and self.context_drop:
            sets = ({CONTEXT}, {TEXT, CONTEXT})
            drops += [Drop(self.context_drop, frozenset(dropped)) for dropped in sets]
        return drops

    def objective(self, model: ImageModel) -> Denoising:
        given = None if self.context.which is WhichFrames.NONE else self.context
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift, given_frames=given)

    def guidance(self, scale: float) -> Guidance:
        if self.context.which is WhichFrames.NONE or self.context_guidance == 1:
            return Cfg(scale=scale)
        return Dual(text=scale, image=self.context_guidance, beside=CONTEXT)

    def follows(self) -> Follows | None:
        return follows(self.context)

    def learns(self) -> tuple[str, ...]:
        beside = () if self.context.which is WhichFrames.NONE else (f"{CONTEXT}.*",)
        return ("unet.inserted.*", *beside)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=16, num_steps=50, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)
