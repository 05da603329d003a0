"""The catalogue: one file per published system."""

from __future__ import annotations

import importlib
import pkgutil

from vgen.methods._assembly import assemble
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, catalogue, method, name_of
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._video_model import VideoModel


def usual() -> Recipe:
    """The method that a command means where none is named and nothing is opened that names one."""
    return catalogue()["animatediff"]()


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
    "method",
    "name_of",
    "usual",
]
