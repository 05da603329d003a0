"""O6 and O7: sets of clips as sets of points. All estimates are unbiased where an unbiased one exists, so
that they do not fall with n.

Spread alone is gamed by overshooting it: clips in the corners of the canvas have 1.7 times the mean distance
of the real ones. Energy distance is two-sided, Vendi counts modes, DUP finds copies.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import linalg
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from vgen.metrics.metric import Metric
from vgen.metrics.statistics import RESAMPLES, Resampled, tail_of

METRIC = Metric(
    "toybox/sets",
    2,
    "unbiased energy distance with permutation p, unbiased MMD2, Vendi, DUP, class entropy, MEM, Frechet",
)
FEWEST_FOR_FRECHET = 1024
COPY = 0.02  # canvas widths: nearer than this is the same clip again
# canvas widths: a number that varies by less is the same for all, and its reading error must not be blown up
RESOLVED = 0.01
VENDI_WIDTH = 0.15  # canvas widths: of the kernel that says when two clips are two modes
_SEED = 20240229


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| without the zero pairs (n d and m d): 0 on average for equal
    distributions, whatever n."""
    _points(a, b)
    return _energy(cdist(np.concatenate([a, b]), np.concatenate([a, b])), np.arange(len(a) + len(b)) < len(a))


def energy_p(a: np.ndarray, b: np.ndarray, num_permutations: int = 500) -> float:
    """Share of random relabellings that are at least as far apart: small where the distributions differ."""
    _points(a, b)
    distance = cdist(np.concatenate([a, b]), np.concatenate([a, b]))
    first, rng = np.arange(len(a) + len(b)) < len(a), np.random.default_rng(_SEED)
    ours = _energy(distance, first)
    return (
        1 + sum(_energy(distance, rng.permutation(first)) >= ours - 1e-12 for _ in range(num_permutations))
    ) / (1 + num_permutations)


def _energy(distance: np.ndarray, first: np.ndarray) -> float:
    n, m = int(first.sum()), int((~first).sum())
    x, y = first.astype(float), (~first).astype(float)
    within = (x @ distance @ x) / (n * (n - 1)) + (y @ distance @ y) / (m * (m - 1))
    return float(2 * (x @ distance @ y) / (n * m) - within)


def mmd2(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / d + 1)^3 of points scaled by the
    pooled deviation (.01 at least)."""
    _points(a, b)
    xx, yy, xy = _kernels(a, b)
    n, m = len(a), len(b)
    within_a = (xx.sum() - np.trace(xx)) / (n * (n - 1))
    within_b = (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within_a + within_b - 2 * xy.mean())


def _kernels(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pooled = np.concatenate([a, b])
    scale = np.maximum(pooled.std(0), RESOLVED)
    a, b = (a - pooled.mean(0)) / scale, (b - pooled.mean(0)) / scale
    xx, yy, xy = (((p @ q.T) / a.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    return xx, yy, xy


def energy_resampled(a: np.ndarray, b: np.ndarray, groups: Sequence[Hashable]) -> Resampled:
    """:func:`energy_distance`, resampled over noises: ``groups`` are the captions of ``a`` and of ``b``
    alike, which stay as they are. Eight captions are too few to stand for all captions; a paired comparison
    needs no more than this."""
    return _set_resampled(energy_distance(a, b), -cdist(a, a), -cdist(b, b), -cdist(a, b), groups)


def mmd2_resampled(a: np.ndarray, b: np.ndarray, groups: Sequence[Hashable]) -> Resampled:
    """:func:`mmd2` in the same way; the kernel's scale is that of all points."""
    return _set_resampled(mmd2(a, b), *_kernels(a, b), groups)


def _set_resampled(
    value: float, xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, groups: Sequence[Hashable]
) -> Resampled:
    """xx + yy - 2 xy where the points of each group are drawn again. A point that is drawn twice makes no
    pair with itself: its distance of zero would push every resample up, as the plain bootstrap of such sums
    does. The pairs left of a group of n come (n - 1) / n as often as those of two groups, which are farther
    apart, and are weighed against that: unweighed, resamples lie too low."""
    if not len(xx) == len(yy) == len(groups):
        raise ValueError(
            "an interval of a set distance needs as many points on both sides, each with its group, got "
            f"{len(xx)}, {len(yy)} and "
            f"{len(groups)} groups"
        )
    at = np.unique([str(g) for g in groups], return_inverse=True)[1]
    rng = np.random.default_rng(_SEED)
    drawn = [_counts(at, rng) for _ in range(2)]
    size = np.bincount(at)[at]
    weight = np.where(at[:, None] == at, size / np.maximum(1, size - 1), 1.0) * (1 - np.eye(len(at)))
    sums = [np.einsum("rn,rn->r", d @ (weight * k), d) for d, k in zip(drawn, (xx, yy), strict=True)]
    pairs = [
        np.where(left > 0, left, np.nan) for d in drawn for left in [np.einsum("rn,rn->r", d @ weight, d)]
    ]  # one point over and over
    values = (
        sums[0] / pairs[0]
        + sums[1] / pairs[1]
        - 2 * np.einsum("rn,rn->r", drawn[0] @ xy, drawn[1]) / len(at) ** 2
    )
    return Resampled(value, values, len(at))


def _counts(at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``r n``: how often each point is in each resample; every group keeps its size."""
    out = np.zeros((RESAMPLES, len(at)))
    for group in range(at.max() + 1):
        mine = np.flatnonzero(at == group)
        out[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), RESAMPLES)
    return out


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2), which falls with n even for equal distributions: both sets must
    be as large."""
    if len(a) != len(b) or len(a) < FEWEST_FOR_FRECHET:
        raise ValueError(
            f"a Frechet distance needs two sets of one size of at least {FEWEST_FOR_FRECHET} points, "
            "because it falls with their number, "
            f"got {len(a)} and {len(b)}; use the unbiased energy_distance or mmd2"
        )
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.trace(linalg.sqrtm(s @ t).real)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root)


def vendi(points: np.ndarray) -> float:
    """Effective number of different points: exp of the entropy of the kernel's spectrum (1 for copies, n for
    points far apart)."""
    kernel = np.exp(-cdist(points, points, "sqeuclidean") / (2 * VENDI_WIDTH**2)) / len(points)
    spectrum = np.linalg.eigvalsh(kernel)
    spectrum = spectrum[spectrum > 1e-12]
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def duplicates(points: np.ndarray) -> float:
    """DUP: share of points with another one nearer than .02 widths."""
    distance = cdist(points, points)
    np.fill_diagonal(distance, np.inf)
    return float((distance.min(1) < COPY).mean())


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``n``: distance of each point to the nearest of the others."""
    return cKDTree(others).query(points)[0]


def memorisation(made: np.ndarray, fresh: np.ndarray, groups: Sequence[Hashable]) -> Resampled:
    """MEM, from distances to the nearest training point (:func:`nearest`): median of what was made over that
    of what was held out; below .5 clips are recalled, not made. Captions (``groups`` of both) are resampled
    whole: clips of one that are copies of each other are no independent samples, and drawn one by one they
    made intervals that held the truth 8 times in 10. One caption alone gives no interval."""
    at = np.unique([str(g) for g in groups], return_inverse=True)[1]
    members = [np.flatnonzero(at == group) for group in range(at.max() + 1)]
    rng = np.random.default_rng(_SEED)
    drawn = [
        np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
        for _ in range(RESAMPLES)
    ]
    ratios = np.array([_ratio(made[i], fresh[i]) for i in drawn]) if len(members) > 1 else None
    return Resampled(_ratio(made, fresh), ratios, len(made), tail_of(len(members)))


def _ratio(made: np.ndarray, fresh: np.ndarray) -> float:
    return float(np.median(made) / max(1e-9, float(np.median(fresh))))


def class_entropy(classes: Sequence[object], num_classes: int) -> float:
    """Entropy over log K: 1 if all classes come equally often; None (nothing was read) is no class and takes
    its share away."""
    known = [c for c in classes if c is not None]
    if not known or num_classes < 2:
        return 0.0
    share = np.unique([str(c) for c in known], return_counts=True)[1] / len(known)
    return float(-(share * np.log(share)).sum() / np.log(num_classes)) * len(known) / len(classes)


def _points(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"set distances need two or more points of one width on both sides, got {a.shape} and "
            f"{b.shape}; score more clips"
        )
