"""Peak signal-to-noise ratio over a region, as it should be: the error is averaged over the region alone.

Zeroing both pictures outside the region and averaging over all of them, as is common, adds 10 log10(whole /
region) dB for nothing.
"""

from __future__ import annotations

import numpy as np

HIGHEST_DB = 60.0  # what equal pictures get: 8-bit rounding alone is 59 dB


def psnr(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """dB between two uint8 f h w 3 over a boolean ``region`` f h w (default: everything), at most 60. Raises
    ValueError if it is empty."""
    if a.shape != b.shape or (region is not None and region.shape != a.shape[:-1]):
        shapes = [x.shape for x in (a, b, region) if x is not None]
        raise ValueError(
            f"PSNR compares videos and a region of one size, got {' and '.join(map(str, shapes))}; resize "
            "or trim one of them"
        )
    error = np.square(a.astype(np.float32) - b.astype(np.float32)).mean(-1)
    if region is not None:
        error = error[region]
    if not error.size:
        raise ValueError("PSNR over a region needs a pixel of it, got none; widen the region")
    return min(HIGHEST_DB, float(-10 * np.log10(max(error.mean(dtype=np.float64) / 255**2, 1e-12))))
