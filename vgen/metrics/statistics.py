"""Means with honest intervals: the bootstrap over clips, paired where two checkpoints drew the same ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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


def interval(values: Sequence[float | None], groups: Sequence[Hashable] | None = None) -> Interval:
    """Mean of the values that are there, with its percentile bootstrap interval (always the same resamples). Clips of one group (a prompt
    drawn with several noises, a subject) are no independent samples: whole groups are drawn."""
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"every value needs its group, got {len(values)} values and {len(groups)} groups; give one group per clip")
    there = [i for i, v in enumerate(values) if v is not None]
    x = np.array([values[i] for i in there], float)
    if not len(x):
        return Interval(None, None, None, 0)
    _, at = np.unique([str(groups[i]) for i in there] if groups else there, return_inverse=True)
    total, size = np.bincount(at, x), np.bincount(at)
    rng = np.random.default_rng(_SEED)
    drawn = [rng.integers(len(size), size=(200, len(size))) for _ in range(RESAMPLES // 200)]
    means = np.concatenate([total[d].sum(1) / size[d].sum(1) for d in drawn])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(x.mean()), float(low), float(high), len(x))


def paired_difference(
    ours: Sequence[float | None], theirs: Sequence[float | None], groups: Sequence[Hashable] | None = None
) -> Interval:
    """Interval of the mean difference over clips that both have: it excludes 0 where one is really better."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"a paired difference needs the same clips on both sides, got {len(ours)} and {len(theirs)}; score both on one suite"
        )
    return interval([a - b if a is not None and b is not None else None for a, b in zip(ours, theirs, strict=True)], groups)
