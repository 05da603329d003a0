"""LoRA: low-rank layers on projections and convolutions of the UNet and the text encoder (Hu et al. 2021).

What is trained here, and what image communities publish, is the same thing: it draws with the image model
alone, and beneath or beside every other method. ``alpha`` over ``rank`` is the scale that is trained with.
"""

from __future__ import annotations

from vgen.backbones.sites import INSERTED, Kind, Where
from vgen.diffusion.guidance import TIME, Drop
from vgen.layers.lora import LowRankSpec
from vgen.methods._recipe import UNET, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

LORA = "lora"
"""What low-rank layers are called at their sites."""
ATTENTION = ["*.attn[12].to_[qkv]", "*.attn[12].to_out.0"]


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


def stills(text_drop: float) -> list[Drop]:
    """Every clip as single frames; a share of them without text."""
    drops = [Drop(text_drop, frozenset({"text", TIME})), Drop(1 - text_drop, frozenset({TIME}))]
    return [drop for drop in drops if drop.share]


@method(
    "lora",
    paper=Paper("LoRA: Low-Rank Adaptation of Large Language Models", "2106.09685", 2021),
    regime=Regime.CORPUS,
)
@spec
class Lora(Recipe):
    """Learns from single frames; the defaults are rank 64 on all attention of the UNet."""

    leads = False
    targets: list[Target] = field(default_factory=lambda: [Target()])
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("lora has no targets; name at least one net, or leave method.targets out")
        if not 0 <= self.text_drop <= 1:
            raise ValueError(f"text_drop is a share in 0..1, got {self.text_drop}")

    def insertions(self) -> list[Insertion]:
        return [target.insertion() for target in self.targets]

    def dropout(self) -> list[Drop]:
        return stills(self.text_drop)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=25, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)

    def learns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target.learns() for target in self.targets))
