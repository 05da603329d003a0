"""Weights come from a local path and nowhere else. Absent: the metric is skipped and says where to get them.
Another file: an error."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgen.metrics.learned.settings import Weights


class Absent(Exception):
    """Why a metric cannot be measured here and what it would need; ends as ``skipped`` in its result."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One entry of the settings that names weights. ``where``: how a person gets them. ``is_code``: loading
    them runs a program."""

    name: str
    where: str
    is_code: Callable[[Path], bool] = lambda path: False


@dataclass(frozen=True, slots=True)
class Located:
    path: Path
    sha256: str


def locate(slot: Slot, weights: Weights) -> Located:
    """The files of ``slot``, hashed. Raises Absent where there are none, ValueError where they are not the
    declared ones."""
    if not weights.path:
        raise Absent(f"no weights: set learned.{slot.name}.path to {slot.where}")
    path = Path(weights.path)
    if not path.exists():
        raise Absent(f"weights not found at {path}: learned.{slot.name}.path should be {slot.where}")
    found = digest(path)
    if weights.sha256 and found != weights.sha256:
        raise ValueError(
            f"learned.{slot.name}.path={path} must have the declared sha256 {weights.sha256}, got {found}; "
            "get the right file or "
            f"correct learned.{slot.name}.sha256"
        )
    named = re.search(r"-([0-9a-f]{8,64})\.pth?$", path.name)
    if named and not found.startswith(named[1]):
        raise ValueError(
            f"learned.{slot.name}.path={path} carries the start of its sha256 in its name, but has {found}; "
            "get it again, whole"
        )
    if slot.is_code(path) and not weights.sha256:
        raise ValueError(
            f"learned.{slot.name}.path={path} is a TorchScript program, and loading it runs its code, so "
            "its sha256 must be declared; this "
            f"file has {found}: compare it with a source that you trust and set learned.{slot.name}.sha256"
        )
    return Located(path, found)


def digest(path: Path) -> str:
    """sha256 of a file; of a folder, that of the lines which ``sha256sum`` prints for :func:`model_files`
    (sorted, relative names)."""
    if path.is_file():
        return _sha256(path)
    lines = [f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in model_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


CLIP_PARTS = ("feature_extractor", "image_encoder", "text_encoder", "tokenizer")


def model_files(folder: Path) -> list[Path]:
    """What decides a transformers model: its safetensors (else .bin), settings and vocabulary. Of an image
    model, its CLIP pair alone."""
    roots = [folder / part for part in CLIP_PARTS] if (folder / "model_index.json").is_file() else [folder]
    files = [f for root in roots if root.is_dir() for f in sorted(root.iterdir())]
    kept = {".safetensors", ".json", ".txt"}
    if not any(f.suffix == ".safetensors" for f in files):
        kept.add(".bin")
    return [f for f in files if f.suffix in kept]


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def is_torchscript(path: Path) -> bool:
    """A TorchScript archive is a zip with a ``code`` folder; a plain state file has none."""
    return (
        path.is_file()
        and zipfile.is_zipfile(path)
        and any("/code/" in name for name in zipfile.ZipFile(path).namelist())
    )


def read_state(path: Path, name: str) -> dict[str, Any]:
    """The tensors of a plain state file; nothing in it is run. Raises ValueError where it is cut or something
    else."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{name}.path={path} must be a file of tensors that torch.load reads with weights_only; get it "
            "again"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{name}.path={path} must hold tensors by name, got a {type(state).__name__}; get the named file"
        )
    return state
