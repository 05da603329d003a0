"""Law: edges are OpenCV's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vgen.backbones.canny import canny


@pytest.mark.parametrize(("low", "high"), [(100, 200), (20, 40), (50, 300)])
def test_edges_are_opencvs(low: int, high: int) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((3, 40, 45, 3)), (0, 2, 2, 0)) * 1500 - 600
    noise = rng.integers(0, 256, (1, 40, 45, 3))
    video = np.concatenate([smooth.clip(0, 255), noise]).astype(np.uint8)
    expected = np.stack([cv2.Canny(frame, low, high) for frame in video])
    assert 0.02 < (expected[:3] > 0).mean() < 0.5
    assert np.array_equal(canny(video, low, high), expected)


def test_thresholds_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 0 <= low <= high"):
        canny(np.zeros((1, 4, 4, 3), np.uint8), 200, 100)
