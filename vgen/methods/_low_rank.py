"""What the methods that train low-rank layers share: where those stand, and clips as stills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import INSERTED, Kind, Where
from vgen.diffusion.guidance import TEXT, TIME, Drop
from vgen.formats.low_rank import LORA
from vgen.layers.lora import LowRankSpec
from vgen.methods._recipe import UNET, Insertion
from vgen.spec import field, spec

ATTENTION = ["*.attn[12].to_[qkv]", "*.attn[12].to_out.0"]

WHOLE_TEXT_ENCODER = (
    "text_encoder.*embeddings.*",
    "text_encoder.*layers.*",
    "text_encoder.*final_layer_norm.*",
)
"""What of a text encoder a UNet's error reaches: all but a projection that some have behind it."""


@spec
class Target:
    """Low-rank layers of one rank on the projections and convolutions of the net ``into`` whose paths match
    ``paths`` (``fnmatch``). ``into`` is ``unet``, ``text_encoder``, ``text_encoder_2``, or
    ``unet.inserted`` for the layers that were inserted into the UNet."""

    into: str = UNET
    paths: list[str] = field(default_factory=lambda: list(ATTENTION))
    layer: LowRankSpec = field(default_factory=LowRankSpec)

    def insertion(self) -> Insertion:
        return Insertion(Where(kinds=[Kind.LINEAR, Kind.CONV], paths=self.paths), self.layer, self.into, LORA)

    def learns(self) -> str:
        return f"{self.into.removesuffix(f'.{INSERTED}')}.{INSERTED}.*@{LORA}.*"


def target_of(plain: Mapping[str, Any]) -> Target:
    """Out of plain data, as formats give it."""
    return Target(into=plain["into"], paths=plain["paths"], layer=LowRankSpec(**plain["layer"]))


def text_and_unet(model: ImageModel) -> dict[str, nn.Module]:
    """The nets of an image model that low-rank layers are published for."""
    return {
        name: net
        for name, net in model.components().items()
        if name == UNET or name.startswith("text_encoder")
    }


def stills(text_drop: float) -> list[Drop]:
    """Every clip as single frames; a share of them without text."""
    drops = [Drop(text_drop, frozenset({TEXT, TIME})), Drop(1 - text_drop, frozenset({TIME}))]
    return [drop for drop in drops if drop.share]
