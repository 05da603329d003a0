"""Align your Latents' decoder: convolutions over frames in the VAE's decoder, which stop the flicker of
frames that are decoded apart (Blattmann et al. 2023, section 3.1.1).

The encoder and the decoder's own layers stay as they were, so every latent and every UNet still fits. Layers
are mixed as the UNet's are; a last convolution over frames behind the decoder's last one is the identity at
birth. A critic of patches over frames learns beside them. Clips are drawn with it by
``stack.decoder.file=RUN``. The layers are those of Stable Video Diffusion's decoder, whose checkpoint is
read.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import nn

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after
from vgen.formats.foreign import Foreign
from vgen.formats.stable_video import StableVideoDecoder
from vgen.layers.mixed_conv import MixedConvSpec
from vgen.layers.patch_discriminator import PatchDiscriminator
from vgen.layers.pseudo3d import PseudoConvSpec
from vgen.methods._decoding import CRITIC, AdversarialDecoding
from vgen.methods._recipe import (
    VAE,
    Conditioned,
    Insertion,
    ModuleOf,
    Paper,
    Recipe,
    Regime,
    Training,
    method,
)
from vgen.spec import field, spec


@method(
    "align_your_latents_decoder",
    paper=Paper(
        "Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models", "2304.08818", 2023
    ),
    regime=Regime.CORPUS,
)
@spec
class AlignYourLatentsDecoder(Recipe):
    """``adversarial`` weighs what the critic says; ``critic_channels`` and ``critic_depth`` are its size."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (StableVideoDecoder(),)
    conv: MixedConvSpec = field(default_factory=MixedConvSpec)
    last: PseudoConvSpec = field(default_factory=PseudoConvSpec)
    adversarial: float = 0.1
    critic_channels: int = 64
    critic_depth: int = 3

    def __post_init__(self) -> None:
        if self.adversarial < 0:
            raise ValueError(
                f"adversarial weighs the critic and must be 0 or more, got {self.adversarial:g}; 0.1 is usual"
            )
        if self.critic_channels < 1 or self.critic_depth < 1:
            raise ValueError(
                f"the critic needs at least 1 channel and 1 convolution, got critic_channels="
                f"{self.critic_channels} and critic_depth={self.critic_depth}"
            )

    def conditions(self) -> dict[str, Conditioned]:
        return {}

    def insertions(self) -> list[Insertion]:
        return [
            Insertion(after(Kind.RESNET), self.conv, into=VAE),
            Insertion(after(Kind.CONV_OUT), self.last, into=VAE),
        ]

    def adversaries(self) -> dict[str, ModuleOf]:
        return {CRITIC: partial(_critic, self.critic_channels, self.critic_depth)}

    def objective(self, model: ImageModel) -> AdversarialDecoding:
        return AdversarialDecoding(adversarial=self.adversarial)

    def learns(self) -> tuple[str, ...]:
        return (f"{VAE}.inserted.*", f"{CRITIC}.*")

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=0.0)


def _critic(channels: int, depth: int, model: ImageModel) -> nn.Module:
    return PatchDiscriminator(channels, depth)
