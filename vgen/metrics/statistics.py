"""Numbers with honest intervals: the bootstrap over clips, paired where two checkpoints drew the same
ones; where it has nothing to say, because all clips agree, the bound of Clopper and Pearson."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
TAIL = 0.025  # what a 95 % interval leaves out on each side
_SEED = 20240229


@dataclass(frozen=True, slots=True)
class Interval:
    """``low high`` hold 95 % of the resampled means; None where there is nothing to average, or one sample
    alone."""

    mean: float | None
    low: float | None
    high: float | None
    num: int

    def beats(self, other: Interval) -> bool:
        """Better beyond both intervals."""
        return self.low is not None and other.high is not None and self.low > other.high


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A number of many clips and, ``r``, what it is in each resample (NaN where a resample says nothing;
    None: no resample is honest). Resamples depend on the clips alone, so those of two checkpoints over the
    same clips are pairs. ``tail`` is left out on each side. ``unanimous`` are the bounds of a share on which
    all samples agree, so that the resamples have no width."""

    value: float
    resamples: np.ndarray | None
    num: int
    tail: float = TAIL
    unanimous: tuple[float, float] | None = None

    def interval(self) -> Interval:
        if self.unanimous is not None:
            return Interval(self.value, *self.unanimous, self.num)
        return self._within(self.value, self.resamples)

    def minus(self, other: Resampled) -> Interval:
        """The difference, both numbers taken from one resample at a time: what the checkpoints share
        cancels."""
        if self.num != other.num:
            raise ValueError(
                f"numbers differ by pairs over the same clips, got {self.num} and {other.num}; score both "
                "on one suite"
            )
        if self.unanimous is not None and other.unanimous is not None:
            return self._apart(self.unanimous, other.value, other.unanimous)
        both = None if self.resamples is None or other.resamples is None else self.resamples - other.resamples
        return self._within(self.value - other.value, both)

    def _apart(self, ours: tuple[float, float], value: float, theirs: tuple[float, float]) -> Interval:
        """The difference of two shares by the bounds of each (Newcombe, Statistics in Medicine 17, 1998)."""
        down = np.hypot(self.value - ours[0], theirs[1] - value)
        up = np.hypot(ours[1] - self.value, value - theirs[0])
        apart = self.value - value
        return Interval(apart, float(apart - down), float(apart + up), self.num)

    def _within(self, value: float, resamples: np.ndarray | None) -> Interval:
        if resamples is None:
            return Interval(value, None, None, self.num)
        low, high = np.nanquantile(resamples, [self.tail, 1 - self.tail])
        return Interval(value, float(low), float(high), self.num)


def average(
    values: Sequence[float | None],
    groups: Sequence[Hashable] | None = None,
    span: tuple[float, float] | None = None,
) -> Resampled | None:
    """Mean of the values that are there, None where there is none. Clips of one group (a prompt drawn with
    several noises, a subject) are no independent samples: whole groups are drawn.

    ``span`` is what a value can be at least and at most, where all that there are agree; by default that of a
    share, where every value is 0 or 1.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(
            f"every value needs its group, got {len(values)} values and {len(groups)} groups; give one "
            "group per clip"
        )
    there = [i for i, v in enumerate(values) if v is not None]
    x = np.array([values[i] for i in there], float)
    if not len(x):
        return None
    _, at = np.unique([str(groups[i]) for i in there] if groups else there, return_inverse=True)
    total, size = np.bincount(at, x), np.bincount(at)
    if len(size) == 1:
        return Resampled(float(x.mean()), None, len(x))
    span = span or ((0.0, 1.0) if is_share(x) else None)
    if span is not None and np.ptp(total / size) == 0:
        bounds = unanimous(float(x.mean()), span, len(size))
    else:
        bounds = None
    rng = np.random.default_rng(_SEED)
    drawn = [rng.integers(len(size), size=(200, len(size))) for _ in range(RESAMPLES // 200)]
    means = np.concatenate([total[d].sum(1) / size[d].sum(1) for d in drawn])
    return Resampled(float(x.mean()), means, len(x), tail_of(len(size)), bounds)


def is_share(values: Sequence[float | None] | np.ndarray) -> bool:
    """Whether every value that is there is 0 or 1."""
    return all(value is None or value in (0.0, 1.0) for value in values)


def unanimous(mean: float, span: tuple[float, float], num: int) -> tuple[float, float]:
    """Bounds of a mean on which ``num`` samples agree: up to a share of 1 - TAIL^(1/num) of all there is may
    be otherwise, at either end of ``span``. Of shares of 0 and 1 these are the bounds of Clopper and Pearson
    (Biometrika 26, 1934): 0 of 4 is at most 0.60."""
    unseen = 1 - TAIL ** (1 / num)
    return mean - unseen * (mean - span[0]), mean + unseen * (span[1] - mean)


def tail_of(num: int) -> float:
    """For so many independent samples. Percentiles of few are too narrow, as a normal's quantiles are where
    Student's are due: of 8 they hold the truth 89 times in 100, these 94 times (expanded percentiles:
    Hesterberg 2015, arXiv 1411.5279)."""
    return (
        float(stats.norm.sf(np.sqrt(num / (num - 1)) * stats.t.ppf(1 - TAIL, num - 1))) if num > 1 else TAIL
    )


def interval(
    values: Sequence[float | None],
    groups: Sequence[Hashable] | None = None,
    span: tuple[float, float] | None = None,
) -> Interval:
    """:func:`average` with its bootstrap interval (always the same resamples)."""
    found = average(values, groups, span)
    return Interval(None, None, None, 0) if found is None else found.interval()


def paired_difference(
    ours: Sequence[float | None], theirs: Sequence[float | None], groups: Sequence[Hashable] | None = None
) -> Interval:
    """Interval of the mean difference over clips that both have: it excludes 0 where one is really better."""
    if len(ours) != len(theirs):
        raise ValueError(
            f"a paired difference needs the same clips on both sides, got {len(ours)} and {len(theirs)}; "
            "score both on one suite"
        )
    both = [a is not None and b is not None for a, b in zip(ours, theirs, strict=True)]
    mine, other = (
        average([value if there else None for value, there in zip(values, both, strict=True)], groups)
        for values in (ours, theirs)
    )
    if mine is not None and other is not None and mine.unanimous is not None and other.unanimous is not None:
        return mine.minus(other)
    apart = [a - b if a is not None and b is not None else None for a, b in zip(ours, theirs, strict=True)]
    shares = is_share(ours) and is_share(theirs)
    return interval(apart, groups, (-1.0, 1.0) if shares else None)
