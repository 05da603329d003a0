"""Distances between two sets of feature vectors, n d each, in float64."""

from __future__ import annotations

import numpy as np


def moments(x: np.ndarray, *, unbiased: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean d and covariance d d; divided by n - 1 if ``unbiased`` (FID), else by n (StyleGAN-V's and the
    content-debiased FVD)."""
    x = x.astype(np.float64)
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False, ddof=1 if unbiased else 0))


def frechet(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|m_a - m_b|² + Tr(C_a + C_b - 2 (C_a C_b)^½), Dowson and Landau 1982.

    The trace of the root is that of (C_a^½ C_b C_a^½)^½, whose matrix is symmetric: it stays exact where n <
    d makes C singular, where ``scipy.linalg.sqrtm`` of the product has given values of 1e50.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return max(0.0, float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


def frechet_of(x: np.ndarray, y: np.ndarray, *, unbiased: bool) -> float:
    return frechet(*moments(x, unbiased=unbiased), *moments(y, unbiased=unbiased))


def polynomial_mmd(x: np.ndarray, y: np.ndarray, run: int = 1, block: int = 1024) -> float:
    """Unbiased squared MMD with the kernel (a·b / d + 1)³ of KID and KVD (Bińkowski et al. 2018, equation 4;
    all samples, no subsets).

    Its mean is 0 for two sets of one distribution at every sample size, so single values may be negative.
    ``run``: so many consecutive samples belong together (the frames of a clip); pairs within a run are left
    out, as a sample's pair with itself is, since they are alike for a reason that says nothing of the
    distribution. ``block`` bounds memory only.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    within = sum(
        (_kernel_sum(a, a, block) - _within_runs(a, run)) / (len(a) * (len(a) - run)) for a in (x, y)
    )
    return float(within - 2 * _kernel_sum(x, y, block) / (len(x) * len(y)))


def _kernel_sum(a: np.ndarray, b: np.ndarray, block: int) -> float:
    parts = (
        a[i : i + block] @ b[j : j + block].T
        for i in range(0, len(a), block)
        for j in range(0, len(b), block)
    )
    return float(sum(((part / a.shape[1] + 1) ** 3).sum() for part in parts))


def _within_runs(a: np.ndarray, run: int) -> float:
    """Sum over pairs of one run, a sample with itself among them."""
    parts = a.reshape(-1, run, a.shape[1])
    return float(sum(((part @ part.T / a.shape[1] + 1) ** 3).sum() for part in parts))
