"""Given frames: met, and gone on from; and what encoder and decoder lose is forgiven."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.metrics.kinds.control import AskedControl, Control, Given
from vgen.metrics.scoring import score
from vgen.metrics.selftest import blurred
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Motion

COUNTS = {"iid": 6, "pair": 2, "triple": 2, "extrapolation": 3, "paraphrase": 0}


def todo(given: Given) -> list[Task]:
    return tasks(
        Suite(**COUNTS, kind=Kind.CONTROL, control=AskedControl(control=Control.FRAMES, given=given))
    )


@pytest.mark.parametrize("given", list(Given))
def test_a_clip_that_meets_its_frames_and_one_that_moves_on_need_each_other(given: Given) -> None:
    for task in todo(given)[:4]:
        truth = render(task.scene).video
        stays, elsewhere = np.repeat(truth[:1], 16, 0), render(task.about.decoy).video
        assert score(truth, task)["held"] > 0.9
        assert score(elsewhere, task)["met"] < 0.2
        stuck = score(stays, task)
        assert stuck["between"] < 0.6
        if given is Given.FIRST:
            assert stuck["met"] == 1
        else:
            assert stuck["met"] < 0.6, "the last frame is another one"


def test_what_the_codec_loses_is_forgiven() -> None:
    task = todo(Given.ENDS)[0]
    truth = render(task.scene).video
    soft = blurred(truth)
    alone, known = score(soft, task), score(soft, task, reconstruction=soft)
    assert alone["psnr_codec"] is None
    assert known["psnr_codec"] == known["psnr_given"] == alone["psnr_given"]
    assert alone["met"] < known["met"] == 1
    assert score(truth, task, reconstruction=soft)["met"] == 1, "better than the codec is no more than right"


def test_only_given_frames_are_compared() -> None:
    task = todo(Given.ENDS)[0]
    truth = render(task.scene).video
    other = truth.copy()
    other[1:15] = 255 - other[1:15]
    assert score(other, task)["psnr_given"] == 60
    other[15] = truth[0]
    assert score(other, task)["psnr_given"] < 30


def test_something_moves_in_every_clip_and_too_short_ones_are_refused() -> None:
    for task in todo(Given.FIRST):
        assert any(thing.motion is not Motion.STATIC for thing in task.scene.things)
    with pytest.raises(ValueError, match="needs 4 frames at least, so that some lie between"):
        Suite(**COUNTS, num_frames=2, kind=Kind.CONTROL, control=AskedControl(control=Control.FRAMES))
