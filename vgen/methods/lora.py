"""LoRA: low-rank layers on projections and convolutions of the UNet and the text encoder (Hu et al. 2021).

What is trained here, and what image communities publish, is the same thing: it draws with the image model
alone, and beneath or beside every other method. ``alpha`` over ``rank`` is the scale that is trained with.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.diffusion.guidance import Drop
from vgen.formats.foreign import Foreign
from vgen.formats.low_rank_files import KohyaFile, LowRankFolder
from vgen.methods._low_rank import Target, stills
from vgen.methods._objectives import check_training_draws
from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "lora",
    paper=Paper("LoRA: Low-Rank Adaptation of Large Language Models", "2106.09685", 2021),
    regime=Regime.CORPUS,
)
@spec
class Lora(Recipe):
    """Learns from single frames; the defaults are rank 64 on all attention of the UNet."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (KohyaFile(), LowRankFolder())
    targets: list[Target] = field(default_factory=lambda: [Target()])
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("lora has no targets; name at least one net, or leave method.targets out")
        check_training_draws(self.text_drop, 1.0)

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
