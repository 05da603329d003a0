"""VBench's formulas: what they reward, what they refuse, and that their preprocessing is the one without
antialiasing."""

import numpy as np
import pytest
import torch

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.frames import centre_crop, shortest_edge
from vgen.metrics.learned.settings import Weights
from vgen.metrics.learned.vbench import _consistency, _moves


def frozen(videos):
    return [np.repeat(v[:1], len(v), 0) for v in videos]


def test_flickering_is_one_for_a_frozen_clip_and_the_formula_elsewhere(videos, noisy):
    names = ["temporal_flickering"]
    assert measure(names, Clips(videos=frozen(videos)))["temporal_flickering"].value == 1
    steps = [np.full((1, 8, 8, 3), level, np.uint8) for level in (0, 51, 0)]
    assert measure(names, Clips(videos=[np.concatenate(steps)]))[
        "temporal_flickering"
    ].value == pytest.approx(0.8)
    assert (
        measure(names, Clips(videos=noisy(videos, 0.1)))["temporal_flickering"].value
        < measure(names, Clips(videos=videos))["temporal_flickering"].value
    )


def test_the_static_filter_keeps_still_clips_only(videos):
    pytest.importorskip("cv2", reason="optical flow is estimated by OpenCV, of the extra 'metrics'")
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 256, (24, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    moving = np.stack([texture[:64, 8 * k : 64 + 8 * k] for k in range(6)])
    result = measure(["static_flickering"], Clips(videos=[*frozen(videos[:1]), moving]))["static_flickering"]
    assert result.per_clip == [1.0, None]
    assert result.value == 1


def test_dynamic_degree_counts_clips_whose_fastest_pixels_move():
    still, fast = np.zeros((7, 64, 64, 2), np.float32), np.zeros((7, 64, 64, 2), np.float32)
    fast[:2, :8, :32, 0] = (
        3  # a sixteenth of the picture at 3 px, over the limit of 1.5 px, in two of the eight frames
    )
    assert not _moves(still, 8)
    assert _moves(fast, 8)
    fast[1] = 0
    assert not _moves(fast, 8), "one frame is not enough"
    videos = [np.zeros((8, 64, 64, 3), np.uint8)] * 2
    fast[1] = fast[0]
    assert measure(["dynamic_degree"], Clips(videos=videos, flow=[still, fast]))[
        "dynamic_degree"
    ].per_clip == [0, 1]


def test_consistency_compares_with_the_frame_before_and_the_first_and_clips_at_nought():
    x = np.array([[1, 0], [0, 1], [0, 1], [-1, 0]], float)
    before, first = [0, 1, 0], [0, 0, 0]
    assert _consistency(x) == pytest.approx(np.mean(before + first))


def test_subject_and_background_consistency_fall_with_noise(toybox, tiny_dino, videos, noisy):
    settings = LearnedMetrics(clip=Weights(path=toybox), dino=Weights(path=str(tiny_dino)))
    names = ["subject_consistency", "background_consistency"]
    still, spoilt = (
        measure(names, Clips(videos=noisy(frozen(videos), sigma)), settings) for sigma in (0, 0.3)
    )
    for name in names:
        assert still[name].value == pytest.approx(1)
        assert spoilt[name].value < 1 - 1e-6
    assert (
        still["background_consistency"].manifest.resize
        == "shortest edge 64, bicubic, no antialias; centre crop"
    )


def test_preprocessing_is_the_one_without_antialiasing():
    """One column in four is lit. A quarter of the size reads between the second and the third: a half, where
    the area's mean is a quarter. The shorter side decides, and the crop is central."""
    stripes = torch.zeros(1, 3, 8, 16)
    stripes[..., 1::4] = 1
    small = shortest_edge(stripes, 2, "bilinear")
    assert small.shape == (1, 3, 2, 4)
    assert small.unique().tolist() == [0.5]
    ramp = torch.arange(16.0).expand(1, 3, 8, 16)
    assert centre_crop(ramp, 8)[0, 0, 0].tolist() == list(range(4, 12))


def test_aesthetic_quality_is_the_linear_head_over_ten(tiny_clip, videos, tmp_path):
    torch.save({"weight": torch.zeros(1, 16), "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
    settings = LearnedMetrics(
        clip=Weights(path=str(tiny_clip)), aesthetic=Weights(path=str(tmp_path / "head.pth"))
    )
    result = measure(["aesthetic_quality"], Clips(videos=videos), settings)["aesthetic_quality"]
    assert result.value == pytest.approx(0.5)
    assert set(result.manifest.weights) == {"clip", "aesthetic"}
    torch.save({"weight": torch.zeros(1, 768), "bias": torch.tensor([5.0])}, tmp_path / "head.pth")
    with pytest.raises(
        ValueError, match=r"reads 768 CLIP features, learned.clip.path gives 16; use its own CLIP"
    ):
        measure(["aesthetic_quality"], Clips(videos=videos), settings)
    torch.save({"a": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="must hold a linear layer with one output, got a"):
        measure(["aesthetic_quality"], Clips(videos=videos), settings)
