"""Frames between frames along optical flow."""

from __future__ import annotations

import numpy as np

from vgen.backbones.flow import halfway


def shown(left: float, side: int = 48) -> np.ndarray:
    """A soft disc at ``left``, on a ground with some texture."""
    y, x = np.mgrid[:side, :side].astype(float)
    disc = 1 / (1 + np.exp(np.hypot(x - left, y - side / 2) - 9))
    return np.repeat((60 + 150 * disc + 10 * np.sin(y / 3))[..., None], 3, 2)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def test_of_a_still_it_is_the_still() -> None:
    assert np.abs(halfway(shown(20), shown(20)) - shown(20)).max() < 1e-6


def test_it_is_nearer_to_the_truth_than_the_mean_and_the_same_from_either_side() -> None:
    first, second = shown(18), shown(24)
    made = halfway(first, second)
    assert error(made, shown(21)) < 0.5 * error((first + second) / 2, shown(21))
    np.testing.assert_allclose(made, halfway(second, first), atol=1e-9)
