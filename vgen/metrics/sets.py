"""O6 and O7: sets of clips as sets of points. All estimates are unbiased where an unbiased one exists, so that they do not fall with n.

Spread alone is gamed by overshooting it: clips in the corners of the canvas have 1.7 times the mean distance of the real ones. Energy
distance is two-sided, Vendi counts modes, DUP finds copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg
from scipy.spatial.distance import cdist

from vgen.metrics.metric import Metric

METRIC = Metric("toybox/sets", 2, "unbiased energy distance with permutation p, unbiased MMD2, Vendi, DUP, class entropy, MEM, Frechet")
FEWEST_FOR_FRECHET = 1024
COPY = 0.02  # canvas widths: nearer than this is the same clip again
RESOLVED = 0.01  # canvas widths: a number that varies by less is the same for all, and its reading error must not be blown up
VENDI_WIDTH = 0.15  # canvas widths: of the kernel that says when two clips are two modes
_SEED = 20240229


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| without the zero pairs (n d and m d): 0 on average for equal distributions, whatever n."""
    _points(a, b)
    return _energy(cdist(np.concatenate([a, b]), np.concatenate([a, b])), np.arange(len(a) + len(b)) < len(a))


def energy_p(a: np.ndarray, b: np.ndarray, num_permutations: int = 500) -> float:
    """Share of random relabellings that are at least as far apart: small where the distributions differ."""
    _points(a, b)
    distance = cdist(np.concatenate([a, b]), np.concatenate([a, b]))
    first, rng = np.arange(len(a) + len(b)) < len(a), np.random.default_rng(_SEED)
    ours = _energy(distance, first)
    return (1 + sum(_energy(distance, rng.permutation(first)) >= ours - 1e-12 for _ in range(num_permutations))) / (1 + num_permutations)


def _energy(distance: np.ndarray, first: np.ndarray) -> float:
    n, m = int(first.sum()), int((~first).sum())
    x, y = first.astype(float), (~first).astype(float)
    within = (x @ distance @ x) / (n * (n - 1)) + (y @ distance @ y) / (m * (m - 1))
    return float(2 * (x @ distance @ y) / (n * m) - within)


def mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 of points scaled by the pooled deviation
    (.01 at least)."""
    _points(a, b)
    pooled = np.concatenate([a, b])
    scale = np.maximum(pooled.std(0), RESOLVED)
    a, b = (a - pooled.mean(0)) / scale, (b - pooled.mean(0)) / scale
    xx, yy, xy = (((p @ q.T) / a.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2), which falls with n even for equal distributions: both sets must be as large."""
    if len(a) != len(b) or len(a) < FEWEST_FOR_FRECHET:
        raise ValueError(
            f"a Frechet distance needs two sets of one size of at least {FEWEST_FOR_FRECHET} points, because it falls with their number, "
            f"got {len(a)} and {len(b)}; use the unbiased energy_distance or mmd2"
        )
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.trace(linalg.sqrtm(s @ t).real)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root)


def vendi(points: np.ndarray) -> float:
    """Effective number of different points: exp of the entropy of the kernel's spectrum (1 for copies, n for points far apart)."""
    kernel = np.exp(-cdist(points, points, "sqeuclidean") / (2 * VENDI_WIDTH**2)) / len(points)
    spectrum = np.linalg.eigvalsh(kernel)
    spectrum = spectrum[spectrum > 1e-12]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def duplicates(points: np.ndarray) -> float:
    """DUP: share of points with another one nearer than .02 widths."""
    return float((_nearest(points, None) < COPY).mean())


def memorisation(points: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> float:
    """MEM: median distance to the nearest training point over that of points that were held out; below .5 clips are recalled, not made."""
    return float(np.median(_nearest(points, training)) / max(1e-9, float(np.median(_nearest(held_out, training)))))


def class_entropy(classes: Sequence[object], num_classes: int) -> float:
    """Entropy over log K: 1 if all classes come equally often; None (nothing was read) is no class and takes its share away."""
    known = [c for c in classes if c is not None]
    if not known or num_classes < 2:
        return 0.0
    share = np.unique([str(c) for c in known], return_counts=True)[1] / len(known)
    return float(-(share * np.log(share)).sum() / np.log(num_classes)) * len(known) / len(classes)


def _nearest(points: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    distance = cdist(points, points if others is None else others)
    if others is None:
        np.fill_diagonal(distance, np.inf)
    return distance.min(1)


def _points(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"set distances need two or more points of one width on both sides, got {a.shape} and {b.shape}; score more clips")
