"""How a process that computes on CPUs gets its memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Freed memory stays with the process, for the next tensor; False where the C library has no such setting
    (musl, or no Linux).

    By default glibc gives every block above 32 MB back to the system at once and gets it again page by page,
    zeroed: at Stable Diffusion's width a third of a training step (benchmarks/RESULTS.md). The peak is what
    it was; between peaks memory is not returned.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
