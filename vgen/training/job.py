"""What a run needs, typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.methods import Recipe
from vgen.methods._assembly import Part
from vgen.training.corpus import Corpus
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.samples import SampleSettings
from vgen.training.signals import Signals
from vgen.training.strategies import TrainerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Beneath:
    """An adapter that lies frozen beneath what is trained: its slot and recipe, its tensors, and how the card
    of what is trained names it."""

    part: Part
    tensors: dict[str, Tensor]
    said: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Job:
    """Everything a run needs, typed.

    ``plain`` is the resolved configuration as plain data, kept in checkpoints and cards, with the seed, which
    all random draws follow from, and the W&B run.

    ``start`` holds learnt tensors of the same layers (``component.parameter``) to begin with instead of fresh
    ones, ``init`` where they are from; ``beneath`` are the adapters that stay frozen under what learns.
    """

    recipe: Recipe
    model: ImageModel
    corpus: Corpus
    optimisation: Optimisation
    settings: TrainerSettings
    logger: LoggerSettings
    samples: SampleSettings
    folder: Path
    name: str
    seed: int
    resume: bool
    plain: dict[str, Any]
    start: dict[str, Tensor] | None = None
    beneath: Sequence[Beneath] = ()
    init: dict[str, Any] = field(default_factory=dict)
    begin: Callable[[], None] = lambda: None
    """Called when nothing speaks against training any more."""
    signals: Signals = field(default_factory=Signals)
    is_lost: Callable[[], bool] = lambda: False
    """Whether the folder has gone to another process."""

    def is_busy(self, step: int) -> bool:
        """Whether a rank draws or saves after ``step`` steps."""
        draws = bool(self.samples.prompts) and step % self.samples.every_steps == 0
        return draws or step % self.settings.checkpoint_every_steps == 0
