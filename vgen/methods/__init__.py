"""The catalogue: one file per published system."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import INSERTED
from vgen.formats import low_rank
from vgen.formats.adapter import in_slot
from vgen.formats.low_rank import Pair
from vgen.layers.lora import LowRankSpec
from vgen.methods._assembly import assemble
from vgen.methods._low_rank import target_of, text_and_unet
from vgen.methods._recipe import (
    UNET,
    Conditioned,
    Insertion,
    Paper,
    Recipe,
    Regime,
    catalogue,
    method,
    name_of,
)
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._video_model import VideoModel
from vgen.methods.lora import Lora
from vgen.methods.motion_lora import MotionLora

INSIDE = f"{UNET}.{INSERTED}"
"""The net of layers that stand in inserted ones."""


def usual() -> Recipe:
    """The method that a command means where none is named and nothing is opened that names one."""
    return catalogue()["animatediff"]()


def given_low_rank(
    entries: Mapping[str, Any], metadata: Mapping[str, str], model: ImageModel
) -> tuple[dict[str, Tensor], Recipe]:
    """The low-rank layers of another program's file for an image model: tensors as adapters hold them, and
    the recipe that inserts them. Raises ValueError as :func:`vgen.formats.low_rank.read` does."""
    pairs = low_rank.read(entries, text_and_unet(model), metadata)
    targets = [target_of(plain) for plain in low_rank.targets_of(pairs)]
    return low_rank.tensors_of(pairs), Lora(targets=targets)


def low_rank_recipe(pairs: Sequence[Pair], model: ImageModel) -> Recipe:
    """The recipe that inserts these layers: that of motions where they are all of its layers, at one rank."""
    first = pairs[0]
    if all((pair.rank, pair.alpha) == (first.rank, first.alpha) for pair in pairs):
        recipe = MotionLora(layer=LowRankSpec(rank=first.rank, alpha=first.alpha))
        if all(pair.place.into == INSIDE for pair in pairs) and _is_all_of(recipe, pairs, model):
            return recipe
    return Lora(targets=[target_of(plain) for plain in low_rank.targets_of(list(pairs))])


def _is_all_of(recipe: Recipe, pairs: Sequence[Pair], model: ImageModel) -> bool:
    """Whether a recipe learns these layers and no other."""
    video_model = assemble(recipe, model)
    try:
        named = in_slot(video_model.components(), "")
    finally:
        video_model.eject()
    learnt = {name for pattern in recipe.learns() for name in fnmatch.filter(named, pattern)}
    return learnt == low_rank.tensors_of(list(pairs)).keys()


for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    if not _module.name.rpartition(".")[2].startswith("_"):
        importlib.import_module(_module.name)

__all__ = [
    "Conditioned",
    "Insertion",
    "Paper",
    "Recipe",
    "Regime",
    "Sampling",
    "SamplingOverrides",
    "VideoModel",
    "assemble",
    "catalogue",
    "given_low_rank",
    "low_rank_recipe",
    "method",
    "name_of",
    "usual",
]
