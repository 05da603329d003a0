"""Peaks of memory, without the trainer's packages, which take seconds to import."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory_gb() -> float:
    """Peak of this process: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resident_peak_gb()


def resident_peak_gb() -> float:
    """Peak of this process in main memory, whatever a GPU holds."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )  # bytes there, KiB elsewhere
