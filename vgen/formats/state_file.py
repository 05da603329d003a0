"""A state dict as a file: safetensors, or a torch archive read as data only. Reading executes nothing,
writing is whole or not at all."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from vgen.spec import Choice


class Container(Choice):
    SAFETENSORS = "safetensors"
    CKPT = "ckpt"


def read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Entries and metadata of a checkpoint; torch archives may wrap their tensors and hold other plain data.

    Raises ValueError where the file is damaged, or could only be read by running code that it carries.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a .safetensors, .ckpt, .pt, .pth or .bin file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  not a dict
        except Exception as error:  # safetensors raises its own type, and OSError
            raise ValueError(
                f"{path} is not a readable safetensors file ({_first_line(error)}); fetch or save it again"
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of the file that is refused below
            entries = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, end of file: whatever a foreign file can be
        raise ValueError(
            f"{path} cannot be read as plain tensors ({_reason(error)}); vgen never runs what a checkpoint "
            "carries: "
            "have it saved again as safetensors"
        ) from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path} holds a {type(entries).__name__}, not a dictionary of tensors")
    return entries, {}


def write(
    path: Path, tensors: dict[str, Tensor], container: Container, metadata: dict[str, str] | None = None
) -> None:
    """``metadata`` is for safetensors alone; a ``.ckpt`` is a plain dictionary of tensors, which every reader
    takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with temporary.open("wb") as file:
        if container is Container.SAFETENSORS:
            file.write(save(tensors, metadata={"format": "pt", **(metadata or {})}))
        else:
            torch.save(
                {name: value.clone() for name, value in tensors.items()}, file
            )  # a view would drag its whole storage along
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _reason(error: BaseException) -> str:
    """Torch's own words, unless they advise to load the file without care."""
    return "it holds more than tensors and plain data" if "weights_only" in str(error) else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
