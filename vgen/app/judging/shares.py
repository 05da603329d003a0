"""Which part of the drawing is this process's: one of several ranks of torchrun or srun, or a share that was
named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from vgen.data.shares import Share
from vgen.training.ranks import by_srun, by_torchrun

_POLL_SECONDS = 0.5


def share(named: str = "") -> Share:
    """``named`` is ``I/N`` (a task of a Slurm array, a machine without a launcher), counted from 0; empty
    asks the launcher. The first one scores."""
    if named:
        return Share.named(named)
    if by_torchrun():
        return Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if by_srun():
        return Share(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"]))
    return Share()


def device() -> str | None:
    """The accelerator of this process where a launcher started several on a node; None lets the model
    choose."""
    import torch

    local = (
        os.environ.get("LOCAL_RANK")
        if by_torchrun()
        else os.environ.get("SLURM_LOCALID")
        if by_srun()
        else None
    )
    num = torch.cuda.device_count()
    return f"cuda:{int(local) % num}" if local is not None and num else None


def wait_for(
    num_missing: Callable[[], int],
    patience_seconds: float,
    on_progress: Callable[[int], None] = lambda missing: None,
) -> int:
    """Until nothing is missing, or until nothing new has come for ``patience_seconds``; returns what is still
    missing."""
    least, since = num_missing(), time.monotonic()
    while least:
        time.sleep(_POLL_SECONDS)
        now = num_missing()
        if now < least:
            least, since = now, time.monotonic()
            on_progress(now)
        elif time.monotonic() - since > patience_seconds:
            return now
    return 0
