"""The camera that a suite asks for: by the names of ``camera.move``, read back, and the caption beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.data.camera import CameraMove, Move
from vgen.metrics.camera import camera_numbers
from vgen.metrics.kinds.camera import AskedCamera, Filmed
from vgen.metrics.scoring import score
from vgen.metrics.second_reader import can_audit
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.oracle import read
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Camera, Colour

COUNTS = {"iid": 4, "pair": 2, "triple": 0, "extrapolation": 0, "paraphrase": 2}


def suite(*moves: Filmed, **settings: object) -> Suite:
    asked = AskedCamera(moves=list(moves) or [Filmed.PAN_LEFT])
    return Suite(**{**COUNTS, "kind": Kind.CAMERA, "camera": asked, **settings})


def truth(task: Task) -> np.ndarray:
    return render(task.scene).video


def mean(rows: list[dict], key: str) -> float:
    return float(np.mean([row[key] for row in rows if row[key] is not None]))


@pytest.mark.parametrize("move", list(Filmed), ids=lambda move: move.value)
def test_every_move_is_asked_as_far_as_clips_are_made_of_it(move: Filmed) -> None:
    views = CameraMove(move=Move(move.value)).views(16)
    first, last = views[0], views[-1]
    rows = [score(truth(task), task) for task in tasks(suite(move))]
    wanted = {
        "pan": 64 * (last.x - first.x) / 0.8 / 15,
        "tilt": 64 * (last.y - first.y) / 0.8 / 15,
        "zoom": 100 * ((first.side / last.side) ** (1 / 15) - 1),
        "roll": 0.0,
    }
    for key, value in wanted.items():
        assert mean(rows, key) == pytest.approx(value, abs=0.05), key
    assert mean(rows, "filmed") > 0.95
    assert mean(rows, "motion_held") == 1


def test_two_moves_add_up_and_one_of_them_is_not_both() -> None:
    for task in tasks(suite(Filmed.ZOOM_OUT, Filmed.TILT_UP)):
        assert score(truth(task), task)["follows"] > 0.9
        alone = replace(task.scene, camera=replace(task.scene.camera, zoom=1.0))
        assert 0.3 < score(render(alone).video, task)["follows"] < 0.85


def test_a_camera_at_rest_another_way_and_another_caption_do_not_pay() -> None:
    for task in tasks(suite()):
        scene = task.scene
        rest = render(replace(scene, camera=Camera())).video
        assert score(rest, task)["follows"] < 0.1
        back = render(replace(scene, camera=Camera(pan_x=-scene.camera.pan_x))).video
        assert score(back, task)["follows"] == 0
        other = next(c for c in Colour if all(c is not thing.colour for thing in scene.things))
        things = (replace(scene.things[0], colour=other), *scene.things[1:])
        wrong = score(render(replace(scene, things=things)).video, task)
        assert (wrong["caption_holds"], wrong["filmed"]) == (0, 0)
        assert wrong["colour"] == 0.5


def test_nothing_seen_is_no_camera() -> None:
    task = tasks(suite())[0]
    blank = np.full((16, 64, 64, 3), 12, np.uint8)
    row = camera_numbers(read(blank), task.scene, 64)
    assert (row["pan"], row["roll"], row["filmed"], row["motion_held"]) == (None, None, 0, 0)


def test_the_second_reader_which_knows_no_camera_leaves_these_out() -> None:
    assert not any(can_audit(task) for task in tasks(suite()))


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match=r"suite.camera.share must lie in 0.5..1, without 1, got 0.2"):
        AskedCamera(share=0.2)
    with pytest.raises(ValueError, match=r"needs one at least, got suite.camera.moves=\[\]"):
        AskedCamera(moves=[])
    with pytest.raises(ValueError, match="kind=camera has no bucket extrapolation"):
        suite(extrapolation=1)
    with pytest.raises(ValueError, match="needs 4 frames at least"):
        suite(num_frames=2)
