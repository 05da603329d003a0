"""Weights of one model in a folder as diffusers saves it: one file or shards with an index, in whatever
precision its name says, as safetensors or as a torch archive read as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgen.formats import state_file

STEM = "diffusion_pytorch_model"
SUFFIXES = ("safetensors", "bin")
"""safetensors first: nothing has to be unpickled."""
_SHARD = re.compile(r"-\d+-of-\d+\.")
"""A part alone; its index names all."""


def found(folder: Path) -> Path | None:
    """The file of its weights, or their index. Full precision comes before a variant such as fp16."""
    return next(candidates(folder), None)


def candidates(folder: Path) -> Iterator[Path]:
    """Every file or index that may hold all weights, the best first."""
    for suffix in SUFFIXES:
        patterns = (
            f"{STEM}.{suffix}",
            f"{STEM}.{suffix}.index.json",
            f"{STEM}.*.{suffix}",
            f"{STEM}.{suffix}.index.*.json",
        )
        for pattern in patterns:
            found = sorted(path for path in folder.glob(pattern) if path.is_file())
            yield from (path for path in found if not _SHARD.search(path.name))


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries and metadata of a file, or of all shards that an index names.

    Raises ValueError where a shard is missing, an index is no plain list of files, or a file can't be read.
    """
    return (_sharded(path), {}) if path.name.endswith(".json") else state_file.read(path)


def _sharded(index: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name in _shards(index):
        path = index.parent / name
        if not path.is_file():
            raise ValueError(f"{index} names the shard {name}, which is not beside it; fetch it again")
        entries |= state_file.read(path)[0]
    return entries


def _shards(index: Path) -> list[str]:
    """File names in the order of the index, each once; a name with folders in it is refused."""
    try:
        names = list(dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} has no weight_map of names and files ({error}); fetch it again") from error
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if strange or not names:
        raise ValueError(f"{index} must name files beside it, got {str(strange)[:80]}; fetch it again")
    return names
