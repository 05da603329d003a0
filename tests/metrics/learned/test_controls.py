"""What trivial controls score: the calibration that the guide prints. ``python
tests/metrics/learned/test_controls.py`` makes its table."""

from pathlib import Path

import numpy as np
import pytest

from vgen.metrics.learned import Clips, LearnedMetrics, measure
from vgen.metrics.learned.settings import Weights
from vgen.toybox.edits import Edit, edit_pair
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample

NAMES = [
    "clip_text",
    "clip_frame_all_pairs",
    "clip_frame_consecutive",
    "clip_frame_accuracy",
    "clip_direction",
    "temporal_flickering",
    "warp_error",
    "ssim",
    "psnr",
]


def controls(num, num_frames):
    """Name of the control -> value by metric, for ``num`` recolouring edits of the miniature world."""
    rng = rng_of(0)
    pairs = [edit_pair(sample(rng, Family.CORE, Mix()), Edit.RECOLOUR, i) for i in range(num)]
    scenes = [render(p.scene) for p in pairs]
    source, flow = [s.video[:num_frames] for s in scenes], [s.flow()[: num_frames - 1] for s in scenes]
    edited = [render(p.edited).video[:num_frames] for p in pairs]
    noise = np.random.default_rng(0)
    shown = {
        "exact edit": edited,
        "exact edit, noise .1": [
            np.clip(v + noise.normal(0, 25.5, v.shape), 0, 255).round().astype(np.uint8) for v in edited
        ],
        "exact edit, first frame frozen": [np.repeat(v[:1], num_frames, 0) for v in edited],
        "exact edit, frames shuffled": [v[np.random.default_rng(1).permutation(num_frames)] for v in edited],
        "source copied": source,
        "another clip's edit": edited[1:] + edited[:1],
        "grey": [np.full_like(v, 128) for v in edited],
    }
    words = {"prompts": [p.target for p in pairs], "source_prompts": [p.source for p in pairs]}
    settings = LearnedMetrics(clip=Weights(path=str(Path(__file__).parents[3] / "data" / "toybox")))
    measured = {
        name: measure(NAMES, Clips(videos=v, sources=source, flow=flow, **words), settings)
        for name, v in shown.items()
    }
    return {
        name: {metric: result.value for metric, result in results.items()}
        for name, results in measured.items()
    }


@pytest.fixture(scope="module")
def scores():
    return controls(num=24, num_frames=6)  # of ten, a grey video won eight by the toss of a coin


def test_the_exact_edit_wins_where_the_words_are_asked(scores):
    exact = scores["exact edit"]
    for rival in ("source copied", "another clip's edit", "grey"):
        for name in ("clip_text", "clip_frame_accuracy", "clip_direction"):
            assert exact[name] > 1.2 * scores[rival][name], (rival, name)


def test_a_copied_source_wins_fidelity_and_loses_the_edit(scores):
    copied = scores["source copied"]
    assert copied["psnr"] == 100
    assert copied["ssim"] == pytest.approx(1)
    assert copied["clip_direction"] == 0
    assert copied["clip_frame_accuracy"] < 0.2


def test_frozen_and_grey_clips_win_consistency_which_is_why_it_never_stands_alone(scores):
    for control in ("exact edit, first frame frozen", "grey"):
        for name in ("clip_frame_all_pairs", "clip_frame_consecutive", "temporal_flickering"):
            assert scores[control][name] == pytest.approx(1)
    assert scores["grey"]["clip_text"] < scores["exact edit"]["clip_text"] / 2


def test_clip_is_blind_to_the_order_of_frames_and_the_warp_error_is_not(scores):
    exact, shuffled = scores["exact edit"], scores["exact edit, frames shuffled"]
    assert shuffled["clip_text"] == pytest.approx(exact["clip_text"], rel=1e-5)
    assert shuffled["clip_frame_all_pairs"] == pytest.approx(exact["clip_frame_all_pairs"], rel=1e-5)
    assert shuffled["warp_error"] > 2 * exact["warp_error"]


def test_noise_lowers_everything(scores):
    exact, noisy = scores["exact edit"], scores["exact edit, noise .1"]
    for name in NAMES:
        vote = (
            0.05 if name == "clip_frame_accuracy" else 0
        )  # a frame near the line between two captions falls on either side
        assert noisy[name] > exact[name] if name == "warp_error" else noisy[name] <= exact[name] + vote, name


if __name__ == "__main__":
    print("| control | " + " | ".join(f"`{name}`" for name in NAMES) + " |\n|" + "---|" * (len(NAMES) + 1))
    for control, row in controls(num=64, num_frames=16).items():
        print(
            f"| {control} | "
            + " | ".join(f"{row[name]:.1f}" if abs(row[name]) > 2 else f"{row[name]:.3f}" for name in NAMES)
            + " |"
        )
