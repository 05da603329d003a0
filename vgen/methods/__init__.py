"""The catalogue: one file per published system."""

from __future__ import annotations

import importlib
import pkgutil

from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, assemble, catalogue, method, name_of

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    if not _module.name.rpartition(".")[2].startswith("_"):
        importlib.import_module(_module.name)

__all__ = ["Insertion", "Paper", "Recipe", "Regime", "assemble", "catalogue", "method", "name_of"]
