"""Warp error and Pixel-MSE: exact motions give nought, no motion gives plain differences, hidden pixels do
not count."""

import numpy as np
import pytest

from vgen.backbones.flow import disagreeing, farneback, inside, warped
from vgen.metrics.learned import Clips, LearnedMetrics, comparable, measure
from vgen.metrics.learned.flow import Motion
from vgen.metrics.learned.settings import FlowOf
from vgen.metrics.learned.warp import _or_all

NAMES = ["warp_error", "pixel_mse"]


@pytest.fixture(scope="module")
def drift():
    """A smooth texture that moves 2 px right and 1 px down a frame, on a larger canvas: 5 frames of 48 px,
    and its exact flow."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 2 * np.pi, 64)
    waves = [np.sin(a * grid[:, None] + b * grid[None] + c) for a, b, c in rng.integers(1, 7, (12, 3))]
    canvas = np.stack([sum(waves[i::3]) for i in range(3)], -1)
    canvas = ((canvas - canvas.min()) / np.ptp(canvas) * 255).round().astype(np.uint8)
    video = np.stack([canvas[8 - k : 56 - k, 10 - 2 * k : 58 - 2 * k] for k in range(5)])
    return video, np.broadcast_to(np.array([2, 1], np.float32), (4, 48, 48, 2)).copy()


def test_no_flow_leaves_the_plain_difference_of_neighbours(videos):
    still = [np.zeros((5, 64, 64, 2), np.float32) for _ in videos]
    found = measure(NAMES, Clips(videos=videos, flow=still))
    plain = [np.square(np.diff(v.astype(float) / 255, axis=0)).mean() for v in videos]
    for name in NAMES:
        assert found[name].per_clip == pytest.approx(plain)


def test_the_exact_flow_leaves_nothing(drift):
    video, flow = drift
    found = measure(NAMES, Clips(videos=[video], flow=[flow]))
    assert [found[name].value for name in NAMES] == pytest.approx([0, 0], abs=1e-12)
    backwards = measure(NAMES, Clips(videos=[video], flow=[-flow]))
    assert backwards["warp_error"].value > 0.001, "the direction matters"


def test_what_leaves_the_picture_does_not_count(drift):
    _, flow = drift
    assert inside(flow[0]).sum() == 46 * 47
    picture = np.arange(48.0 * 48).reshape(48, 48)
    assert np.allclose(warped(picture[..., None], flow[0])[:47, :46, 0], picture[1:, 2:])


def test_hidden_pixels_count_in_one_and_not_in_the_other(drift):
    video, flow = drift
    spoilt, hidden = video.copy(), np.zeros((4, 48, 48), bool)
    spoilt[1, 20:30, 20:30] = 0  # something stands before it in frame 1 ...
    hidden[0, 19:29, 18:28] = hidden[1, 20:30, 20:30] = (
        True  # ... and so hides what frame 0 showed and is gone in frame 2
    )
    clips = Clips(videos=[spoilt], flow=[flow], hidden=[hidden])
    found = measure(NAMES, clips)
    assert found["warp_error"].value == pytest.approx(0, abs=1e-12)
    assert found["pixel_mse"].value > 0.001
    assert found["warp_error"].manifest.options == {"flow": "given", "hidden": "given"}


def test_everything_hidden_asks_for_nothing(drift):
    video, flow = drift
    clips = Clips(videos=[video], flow=[flow], hidden=[np.ones((4, 48, 48), bool)])
    assert "nothing to measure" in measure(["warp_error"], clips)["warp_error"].skipped


def test_the_worlds_own_flow_explains_its_motion(world):
    """Exact ground truth of the renderer: most of the change is explained, and noise is not."""
    moving = [r for r in world[0] if np.abs(r.flow()).max() > 0.5]
    assert moving
    videos, flow = [r.video for r in moving], [r.flow() for r in moving]
    none = [np.zeros_like(step) for step in flow]
    explained = measure(["pixel_mse"], Clips(videos=videos, flow=flow))["pixel_mse"].value
    assert explained < 0.75 * measure(["pixel_mse"], Clips(videos=videos, flow=none))["pixel_mse"].value


def test_error_grows_with_flicker(videos, noisy):
    pytest.importorskip("cv2")
    values = [
        measure(["warp_error"], Clips(videos=noisy(videos, sigma)))["warp_error"].value
        for sigma in (0, 0.05, 0.15)
    ]
    assert values == sorted(values)


class TestFarneback:
    @pytest.fixture(autouse=True)
    def _opencv(self):
        pytest.importorskip("cv2", reason="optical flow is estimated by OpenCV, of the extra 'metrics'")

    def test_finds_a_known_motion(self, drift):
        video, flow = drift
        found = farneback(video[0], video[1])[8:-8, 8:-8]
        assert np.abs(np.median(found, (0, 1)) - flow[0, 0, 0]).max() < 0.25

    def test_there_and_back_agree_on_a_drift_and_not_on_a_cut(self, drift):
        video, _ = drift
        there, back = farneback(video[0], video[1]), farneback(video[1], video[0])
        assert disagreeing(there, back)[8:-8, 8:-8].mean() < 0.5
        assert disagreeing(there, -back).mean() > 0.9

    def test_is_used_where_no_flow_is_given(self, drift):
        video, flow = drift
        found = measure(NAMES, Clips(videos=[video]))["pixel_mse"]
        assert found.manifest.options["flow"] == "Farneback of videos"
        still = measure(["pixel_mse"], Clips(videos=[video], flow=[np.zeros_like(flow)]))["pixel_mse"]
        assert found.value < 0.2 * still.value
        with pytest.raises(ValueError, match=r"differ in options \(.*Farneback of videos"):
            comparable(found, still)

    def test_of_the_sources_tells_an_edit_that_does_not_follow(self, drift):
        """A frozen edit of a moving source looks perfect by its own flow and is found out by the source's."""
        video, _ = drift
        frozen = np.repeat(video[:1], 5, 0)
        clips = Clips(videos=[frozen], sources=[video])
        assert measure(["pixel_mse"], clips)["pixel_mse"].value == pytest.approx(0, abs=1e-5)
        assert (
            measure(["pixel_mse"], clips, LearnedMetrics(flow_of=FlowOf.SOURCES))["pixel_mse"].value > 0.001
        )

    def test_of_absent_sources_is_a_reason(self, drift):
        result = measure(["warp_error"], Clips(videos=[drift[0]]), LearnedMetrics(flow_of=FlowOf.SOURCES))[
            "warp_error"
        ]
        assert "flow_of=sources estimates the motion of the sources, which were not given" in result.skipped


def test_a_clip_that_boils_does_not_go_free():
    """Of noise nothing can be followed; its error is that of all its pixels, never an absence."""
    pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    found = measure(NAMES, Clips(videos=[noise]))
    assert found["warp_error"].value > 0.05
    assert "of the pixels are seen in both frames" in found["warp_error"].notes[0]
    nothing = Motion(np.zeros((3, 32, 32, 2), np.float32), np.zeros((3, 32, 32), bool))
    assert _or_all(nothing).all()


def test_without_opencv_the_metric_is_skipped_and_says_what_to_install(drift, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (
        "pip install 'vgen[metrics]', or give the flow"
        in measure(["warp_error"], Clips(videos=[drift[0]]))["warp_error"].skipped
    )
