"""Configurations of model folders, which other people write: plain data that names no program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 24
_KERNELS = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
ATTENTION = "sdpa"
"""What every transformers model computes attention with, whatever its configuration asks for."""


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError with the file's name where it is too large, too deep or none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} can't be read (it is nested too deeply); fetch it again") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object, got a {type(found).__name__}; fetch it again")
    return found


def refuse_programs(part: Path) -> None:
    """Raises ValueError where the configuration of one part asks for code from a hub or for other weights
    than plain ones."""
    path = part / "config.json"
    if not path.is_file():
        return
    for name, value in _entries(read_settings(path)):
        if name in _KERNELS and "/" in str(value):
            raise ValueError(
                f"{path} asks for {name}={value}, a kernel from a hub, which would be downloaded and run; "
                f"remove the entry: {ATTENTION} computes the same"
            )
        if name == "quantization_config" and value:
            raise ValueError(
                f"{path} has a quantization_config, and vgen reads plain weights alone; fetch the model "
                "without quantization"
            )


def of_transformers() -> dict[str, str]:
    """Options with which ``from_pretrained`` takes no word of a configuration for how attention is
    computed."""
    return {"attn_implementation": ATTENTION}


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value, at any depth."""
    if isinstance(settings, list):
        for value in settings:
            yield from _entries(value)
    elif isinstance(settings, dict):
        for name, value in settings.items():
            yield name, value
            yield from _entries(value)
