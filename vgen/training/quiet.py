"""What libraries say of every training and nobody can do anything about."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISY = (
    "pytorch_lightning",
    "lightning.pytorch",
    "lightning_fabric",
    "deepspeed",
    "DeepSpeed",
    "httpx",
)
"""Loggers whose tips are not shown."""
WARNING_MODULES = "pytorch_lightning|lightning_fabric|torch.distributed|torch.utils.data"


@contextmanager
def unheard() -> Iterator[None]:
    """Tips and known warnings of libraries are not shown meanwhile; afterwards all is as it was."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=WARNING_MODULES)
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
