"""The catalogue: one file per published system."""

from __future__ import annotations

import importlib
import pkgutil

from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, assemble, catalogue, method, name_of

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Insertion", "Paper", "Recipe", "Regime", "assemble", "catalogue", "method", "name_of"]
