"""Parts of transformers' models out of local folders: whole or not at all, and without a word of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from vgen.backbones.foreign_settings import of_transformers, refuse_programs


def pretrained(kind: Any, folder: Path, name: str, **options: Any) -> Any:
    """A transformers model in float32, every one of whose weights is in ``folder`` (a missing one would be
    random, in silence)."""
    refuse_programs(folder)
    options = of_transformers() | options
    with quiet():
        try:
            model, info = kind.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(
                f"{name}.path={folder} must hold a {kind.__name__} of transformers, got: {_first_line(error)}"
            ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{name}.path={folder} must hold all weights of a {kind.__name__}, {len(missing)} are missing, "
            f"{missing[0]} among them; get it "
            "again"
        )
    return model.eval().requires_grad_(False)


def read_part(kind: Any, folder: Path, name: str, **options: Any) -> Any:
    """A tokenizer or processor from ``folder``."""
    try:
        with quiet():
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{name}.path: {folder} must hold the {kind.__name__} beside the weights; get the whole folder"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers draws no progress bars and warns of nothing meanwhile."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
