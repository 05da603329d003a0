"""Camera moves by rule: what is seen goes where the camera does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vgen.data.camera import CameraMove, Move
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.sample import Sample
from vgen.data.toybox import ToyboxSource

SIZE, FRAMES = 32, 5


def bars(size: int) -> np.ndarray:
    """A still of four corners in four greys, f h h 3."""
    half = size // 2
    frame = np.zeros((size, size, 3), np.uint8)
    frame[:half, :half], frame[:half, half:] = 40, 90
    frame[half:, :half], frame[half:, half:] = 150, 230
    return np.broadcast_to(frame, (FRAMES, *frame.shape)).copy()


def seen(move: Move, video: np.ndarray | None = None) -> np.ndarray:
    camera = CameraMove(move=move)
    shot = bars(camera.reading_px(SIZE)) if video is None else video
    return camera.moved(Sample("a", shot, "words", {"fps": 8.0, "scene": {}}), SIZE).video


def edges(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the vertical and the horizontal edge cross the middle line of each frame, in pixels."""
    across = np.abs(np.diff(video[:, SIZE // 4, :, 0].astype(int), axis=1)).argmax(1)
    along = np.abs(np.diff(video[:, :, SIZE // 4, 0].astype(int), axis=1)).argmax(1)
    return across, along


@pytest.mark.parametrize(
    ("move", "x", "y"),
    [(Move.PAN_LEFT, 1, 0), (Move.PAN_RIGHT, -1, 0), (Move.TILT_UP, 0, 1), (Move.TILT_DOWN, 0, -1)],
)
def test_what_is_seen_goes_the_other_way_evenly(move: Move, x: int, y: int) -> None:
    for edge, way in zip(edges(seen(move)), (x, y), strict=True):
        steps = np.diff(edge)
        room = SIZE * (1 / 0.8 - 1) * way
        assert abs(edge[-1] - edge[0] - room) <= 1
        assert np.ptp(steps) <= 1


def test_zoom_in_is_zoom_out_backwards() -> None:
    assert np.array_equal(seen(Move.ZOOM_IN), seen(Move.ZOOM_OUT)[::-1])
    video = bars(CameraMove(move=Move.ZOOM_IN).reading_px(SIZE))
    video[:, : len(video[0]) // 16] = 255  # a border that a camera going in loses
    inner = seen(Move.ZOOM_IN, video)
    assert inner[0, 0, 0, 0] > 200
    assert inner[-1, 0, 0, 0] < 60


def test_rolls_turn_either_way_and_never_show_a_border() -> None:
    white = np.full_like(bars(CameraMove(move=Move.ROLL_CLOCKWISE).reading_px(SIZE)), 200)
    for move in (Move.ROLL_CLOCKWISE, Move.ROLL_ANTICLOCKWISE):
        assert seen(move, white).min() == 200
    clockwise = seen(Move.ROLL_CLOCKWISE)
    assert np.array_equal(clockwise, seen(Move.ROLL_ANTICLOCKWISE)[::-1])
    top = np.abs(np.diff(clockwise[:, 2, :, 0].astype(int), axis=1)).argmax(1)
    assert top[0] < top[-1] or top[0] > top[-1]


def test_the_camera_rolls_clockwise_so_the_scene_turns_the_other_way() -> None:
    """The vertical edge's upper end goes left."""
    top = np.abs(np.diff(seen(Move.ROLL_CLOCKWISE)[:, 2, :, 0].astype(int), axis=1)).argmax(1)
    assert top[0] > top[-1]


def test_no_move_is_no_change() -> None:
    sample = Sample("a", bars(SIZE), "words", {"fps": 8.0})
    assert CameraMove().moved(sample, SIZE) is sample
    assert CameraMove().reading_px(SIZE) == SIZE


def test_prepared_clips_move_and_say_so(tmp_path: Path) -> None:
    still = Prepare(
        data=ToyboxSource(num_clips=2, seed=5), out=str(tmp_path / "a"), num_frames=4, num_processes=1
    )
    wish = replace(still, out=str(tmp_path / "b"), camera=CameraMove(move=Move.PAN_LEFT))
    assert "camera" not in still.settings()
    prepare(wish)
    found = ShardReader(tmp_path / "b")[0]
    assert found.video is not None
    assert found.video.shape == (4, 64, 64, 3)
    assert found.metadata["camera"] == "pan_left"
    assert "scene" not in found.metadata


def test_fields_beside_the_video_would_stay_behind() -> None:
    sample = Sample("a", bars(SIZE), "words", {}, {"pose": np.zeros((FRAMES, 1, 17, 3), np.float32)})
    with pytest.raises(ValueError, match="pan_left moves the video alone, and the clips have pose too"):
        CameraMove(move=Move.PAN_LEFT).moved(sample, SIZE)


@pytest.mark.parametrize("knobs", [{"share": 1.0}, {"share": 0.0}, {"degrees": 0.0}, {"degrees": 120.0}])
def test_windows_that_mean_nothing_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"camera\.(share|degrees) must lie in"):
        CameraMove(**knobs)
