"""Every key that a verb knows, as a file, so that a misspelt one is answered before torch is imported.

``python -m vgen.app.known_keys`` writes ``keys.json`` anew from the types; a test compares.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgen.metrics.flat_suites import SLOTS

FILE = Path(__file__).with_name("keys.json")
RUNS = {
    "prepare": "vgen.app.prepare:Prepare",
    "train": "vgen.app.config:TrainRun",
    "plan": "vgen.app.plan:PlanRun",
    "generate": "vgen.app.generate:GenerateRun",
    "edit": "vgen.app.edit:EditRun",
    "evaluate": "vgen.app.evaluate:EvaluateRun",
    "export": "vgen.app.export:Export",
    "loras": "vgen.app.loras:Loras",
}
"""The type behind the configuration of each verb that Hydra reads."""
MORE = {
    "train": ("numbers", "experiment", "debug"),
    "plan": ("numbers", "experiment", "debug"),
    "export": ("from",),
    "evaluate": tuple(f"suite.{name}" for name in SLOTS),
}
"""Groups that only choose among settings, and spellings of another time."""


def read() -> dict[str, list[str]]:
    """The keys of each verb, as they are in the file."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def found() -> dict[str, list[str]]:
    """The keys of each verb, by the types; ``KEY.*`` may have any below it. Imports everything."""
    from vgen.methods import catalogue

    catalogue()  # so that every method is among the subclasses of Recipe
    out = {}
    for verb, place in RUNS.items():
        module, _, name = place.partition(":")
        importlib.import_module(f"vgen.app.{verb}")
        run = getattr(importlib.import_module(module), name)
        out[verb] = sorted({*_keys(run, "", ()), *MORE.get(verb, ())})
    return out


def _keys(cls: type, above: str, seen: tuple[type, ...]) -> Iterator[str]:
    """Of a dataclass, and of those that may stand in its place."""
    if cls in seen:
        return
    for kind in (cls, *_below(cls)):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            key = f"{above}{field.name}"
            yield key
            if hints[field.name] is Any or typing.get_origin(hints[field.name]) is dict:
                yield f"{key}.*"
            for inner in _classes(hints[field.name]):
                yield from _keys(inner, f"{key}.", (*seen, cls))


def _below(cls: type) -> Iterator[type]:
    kinds: list[type] = cls.__subclasses__()
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            yield kind
        yield from _below(kind)


def _classes(hint: Any) -> list[type]:
    """The dataclass of a field, if it holds one; those in lists are addressed as a whole."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


if __name__ == "__main__":
    FILE.write_text(json.dumps(found(), indent=0) + "\n", encoding="utf-8")
