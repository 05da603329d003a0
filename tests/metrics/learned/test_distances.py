"""The maths of set distances against closed forms."""

import numpy as np
import pytest

from vgen.metrics.learned.distances import frechet, frechet_of, moments, polynomial_mmd


def test_frechet_of_diagonal_gaussians_has_a_closed_form():
    rng = np.random.default_rng(0)
    mean_a, mean_b, sd_a, sd_b = rng.normal(size=(4, 50))
    value = frechet(mean_a, np.diag(sd_a**2), mean_b, np.diag(sd_b**2))
    assert value == pytest.approx(
        np.square(mean_a - mean_b).sum() + np.square(abs(sd_a) - abs(sd_b)).sum(), rel=1e-9
    )


def test_frechet_does_not_change_when_both_sets_turn():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert frechet_of(x @ turn, y @ turn, unbiased=True) == pytest.approx(
        frechet_of(x, y, unbiased=True), rel=1e-9
    )


@pytest.mark.parametrize("num", [4, 32, 500])
def test_frechet_of_a_set_with_itself_is_nought_even_with_fewer_samples_than_dimensions(num):
    x = np.random.default_rng(2).normal(size=(num, 400))
    assert frechet_of(x, x, unbiased=False) == pytest.approx(0, abs=1e-6)


def test_frechet_agrees_with_sqrtm_where_that_is_stable():
    import scipy.linalg

    rng = np.random.default_rng(3)
    (ma, ca), (mb, cb) = (
        moments(rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6)), unbiased=True) for _ in range(2)
    )
    theirs = np.square(ma - mb).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert frechet(ma, ca, mb, cb) == pytest.approx(theirs, rel=1e-8)


def test_the_two_conventions_of_the_covariance():
    x = np.random.default_rng(4).normal(size=(10, 3))
    assert moments(x, unbiased=True)[1] == pytest.approx(moments(x, unbiased=False)[1] * 10 / 9)


def test_frechet_falls_with_the_sample_size_and_the_mmd_does_not():
    """Equal distributions: why minimums exist and why the MMD stands beside it."""
    rng = np.random.default_rng(5)

    def of(num, distance):
        return np.mean([distance(rng.normal(size=(num, 40)), rng.normal(size=(num, 40))) for _ in range(20)])

    few, many = (of(num, lambda x, y: frechet_of(x, y, unbiased=True)) for num in (32, 512))
    assert few > 5 * many
    scale = np.std([polynomial_mmd(rng.normal(size=(32, 40)), rng.normal(size=(32, 40))) for _ in range(50)])
    assert abs(of(32, polynomial_mmd)) < scale


def test_the_mmd_is_unbiased():
    """Equal distributions: the mean of many draws lies within three standard errors of 0; the biased
    statistic would not."""
    rng = np.random.default_rng(6)
    draws = np.array(
        [polynomial_mmd(rng.normal(size=(16, 10)), rng.normal(size=(24, 10))) for _ in range(400)]
    )
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean()) < 3 * error
    within = np.mean(
        [((np.square(rng.normal(size=(16, 10))).sum(1) / 10 + 1) ** 3).mean() for _ in range(100)]
    )
    assert within / 16 > 3 * error, "the diagonal that a biased estimate keeps would be seen"


def test_the_mmd_is_the_double_sum_of_its_definition():
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    want = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    want += np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    want -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert polynomial_mmd(x, y) == pytest.approx(want)
    assert polynomial_mmd(x, y, block=2) == pytest.approx(want), "blocks are a matter of memory"


def test_pairs_of_one_run_are_left_out_of_the_double_sum():
    rng = np.random.default_rng(8)
    x, y, d = rng.normal(size=(6, 3)), rng.normal(size=(4, 3)), 3

    def k(a, b):
        return (a @ b / d + 1) ** 3

    apart = [[(i, j) for i in range(n) for j in range(n) if i // 2 != j // 2] for n in (6, 4)]
    within = [np.mean([k(a[i], a[j]) for i, j in pairs]) for a, pairs in zip((x, y), apart, strict=True)]
    across = np.mean([k(a, b) for a in x for b in y])
    assert polynomial_mmd(x, y, run=2) == pytest.approx(sum(within) - 2 * across)


def test_frames_of_one_clip_are_alike_without_making_two_equal_sets_differ():
    """Eight clips of eight frames, all of one distribution: counted as independent samples, their frames set
    the sets apart."""
    rng = np.random.default_rng(9)

    def frames():
        return (rng.normal(size=(8, 1, 4)) + 0.2 * rng.normal(size=(8, 8, 4))).reshape(64, 4)

    pairs = [(frames(), frames()) for _ in range(150)]
    naive, ours = (np.array([polynomial_mmd(x, y, run=run) for x, y in pairs]) for run in (1, 8))
    assert abs(ours.mean()) < 3 * ours.std() / 150**0.5
    assert naive.mean() > 5 * naive.std() / 150**0.5


def test_both_see_a_shift():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(200, 10))
    for distance in (polynomial_mmd, lambda a, b: frechet_of(a, b, unbiased=True)):
        near, far = distance(x, rng.normal(size=(200, 10)) + 0.3), distance(x, rng.normal(size=(200, 10)) + 1)
        assert 0 < near < far
