"""Means with honest intervals: the bootstrap over clips, paired where two checkpoints drew the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_SEED = 20240229


@dataclass(frozen=True, slots=True)
class Interval:
    """``low high`` hold 95 % of the resampled means; None where there is nothing to average."""

    mean: float | None
    low: float | None
    high: float | None
    num: int

    def beats(self, other: Interval) -> bool:
        """Better beyond both intervals."""
        return self.low is not None and other.high is not None and self.low > other.high


def interval(values: Sequence[float | None]) -> Interval:
    """Mean of the values that are there, with its percentile bootstrap interval (always the same resamples)."""
    x = np.array([v for v in values if v is not None], float)
    if not len(x):
        return Interval(None, None, None, 0)
    rng = np.random.default_rng(_SEED)
    means = np.concatenate([x[rng.integers(len(x), size=(200, len(x)))].mean(1) for _ in range(RESAMPLES // 200)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high), len(x))


def paired_difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Interval:
    """Interval of the mean difference over clips that both have: it excludes 0 where one is really better."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"a paired difference needs the same clips on both sides, got {len(ours)} and {len(theirs)}; score both on one suite"
        )
    return interval([a - b if a is not None and b is not None else None for a, b in zip(ours, theirs, strict=True)])
