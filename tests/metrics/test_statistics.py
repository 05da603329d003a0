"""Intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.metrics.statistics import Resampled, average, interval, paired_difference


def test_interval_holds_the_true_mean_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(120):
        found = interval(list(rng.random(80) < 0.3))
        assert found.low is not None
        assert found.high is not None
        held.append(found.low <= 0.3 <= found.high)
    assert 0.88 <= np.mean(held) <= 1


def test_half_width_is_that_of_the_binomial() -> None:
    found = interval([0.0, 1.0] * 256)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 0.5 / 512**0.5, rel=0.1)


def test_none_is_left_out_and_nothing_is_nothing() -> None:
    assert interval([1.0, None, 0.0]).num == 2
    assert interval([None]).mean is None


def test_the_same_numbers_give_the_same_interval() -> None:
    values = list(np.random.default_rng(2).random(30))
    assert interval(values) == interval(values)


def test_pairing_sees_what_separate_intervals_miss() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.random(64)
    ours = theirs + 0.02
    assert not interval(list(ours)).beats(interval(list(theirs)))
    assert paired_difference(list(ours), list(theirs)).low > 0


def test_unpaired_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="same clips on both sides, got 1 and 2"):
        paired_difference([1.0], [1.0, 0.0])


def test_clips_of_one_prompt_are_one_sample() -> None:
    """Four copies of every clip are no more knowledge: grouped, the interval stays as wide as it was."""
    values = list(np.random.default_rng(4).random(40))
    once, copied = interval(values), interval(values * 4)
    grouped = interval(values * 4, groups=list(range(40)) * 4)
    assert copied.high - copied.low < 0.6 * (once.high - once.low)
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.1)
    with pytest.raises(ValueError, match="every value needs its group, got 2 values and 1 groups"):
        interval([1.0, 0.0], groups=["a"])


def test_few_prompts_widen_the_interval() -> None:
    """Of eight prompts plain percentiles hold the true mean 88 times in 100."""
    rng = np.random.default_rng(6)
    found = [interval(list(rng.normal(size=8))) for _ in range(300)]
    assert np.mean([x.low <= 0 <= x.high for x in found]) >= 0.92
    one = interval([0.4])
    assert (one.mean, one.low, one.high) == (0.4, None, None)
    assert interval([0.4, 0.6], groups=["a", "a"]).low is None


def test_resampled_numbers_differ_by_pairs() -> None:
    rng = np.random.default_rng(7)
    theirs = list(rng.random(30))
    ours = [x + 0.1 for x in theirs]
    apart = average(ours).minus(average(theirs))
    assert (apart.low, apart.mean, apart.high) == pytest.approx((0.1, 0.1, 0.1))
    bare = Resampled(2.0, None, 30).minus(average(theirs))
    assert (bare.low, bare.high) == (None, None)
    with pytest.raises(ValueError, match="by pairs over the same clips, got 30 and 29"):
        average(ours).minus(average(theirs[1:]))


@pytest.mark.parametrize(("right", "num"), [(0, 4), (4, 4), (0, 30), (30, 30)])
def test_a_share_on_which_all_agree_has_the_bounds_of_clopper_and_pearson(right: int, num: int) -> None:
    from scipy.stats import binomtest

    exact = binomtest(right, num).proportion_ci(0.95, "exact")
    found = interval([1.0] * right + [0.0] * (num - right))
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_two_checkpoints_that_agree_on_few_clips_may_differ_on_others() -> None:
    """No width is claimed for a share; a number that is no share and always equal has none to claim."""
    few = paired_difference([1.0] * 4, [1.0] * 4)
    assert (few.low, few.mean, few.high) == pytest.approx((-0.602, 0.0, 0.602), abs=1e-3)
    better = average([1.0] * 4).minus(average([0.0] * 4))
    assert (better.low, better.mean, better.high) == pytest.approx((0.148, 1.0, 1.0), abs=1e-3)
    alike = interval([0.3, 0.3])
    assert (alike.low, alike.high) == pytest.approx((0.3, 0.3))
    # groups that agree on a half have it between their own ends
    halves = interval([1.0, 0.0] * 3, groups=[0, 0, 1, 1, 2, 2])
    assert 0 < halves.low < 0.5 < halves.high < 1
