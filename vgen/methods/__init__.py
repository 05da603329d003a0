"""The catalogue: one file per published system."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.formats import low_rank
from vgen.methods._assembly import assemble
from vgen.methods._low_rank import target_of, text_and_unet
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, catalogue, method, name_of
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._video_model import VideoModel
from vgen.methods.lora import Lora


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
    "method",
    "name_of",
    "usual",
]
