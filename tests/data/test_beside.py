"""Fields as files beside the videos of a folder: cut in time and space as the video is, one for each of them
or named in the ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgen.data.beside import Given, read_beside
from vgen.data.camera import CameraMove, Move
from vgen.data.decode import Cut
from vgen.data.fields import FIELDS, Needs
from vgen.data.ledger import read_ledger
from vgen.data.pose import mirrored
from vgen.data.prepare import Prepared
from vgen.data.reader import ShardReader

FPS = 24
CLIP = {
    "start_seconds": 1.0,
    "source_fps": 24.0,
    "aspect": 1.5,
    "source_width_px": 96,
    "source_height_px": 64,
}
CUT = Cut(fps=8, num_frames=4, size_px=32)


def bar(seconds: float) -> float:
    """Where the bar of the studio's pictures is, in shares of their width."""
    return int(seconds / 4 * 96) / 96


@pytest.fixture
def dance(tmp_path: Path, studio: Any) -> Path:
    return studio.caption(studio.write_video(tmp_path / "in" / "dänce 1.mp4", FPS, 3.0))


@pytest.fixture
def run(tmp_path: Path, studio: Any) -> Callable[..., Prepared]:
    def run(*fields: str, out: str = "out", **more: object) -> Prepared:
        return studio.run(tmp_path / "in", tmp_path / out, fields=list(fields), num_processes=1, **more)

    return run


def test_clips_pictures_and_key_points_become_fields(
    dance: Path, run: Callable[..., Prepared], studio: Any
) -> None:
    """What moves in the video, in a clip beside it and in its pose is at one place in every frame."""
    shutil.copy(dance, dance.with_suffix(".control.mp4"))
    Image.fromarray(studio.picture(2.0)).save(dance.with_suffix(".reference.png"))
    joints = [[[[bar(i / FPS), 0.5, 1.0]] * 17] for i in range(3 * FPS)]
    dance.with_suffix(".pose.json").write_text(json.dumps(joints))
    names = ("control", "pose", "reference")
    done = run(*names)
    assert done.manifest.settings["fields"] == dict.fromkeys(names, "the source")
    assert done.manifest.counts["clips"] == 3, "the clip beside it is no video of its own"
    for number, sample in enumerate(ShardReader(done.folder, Needs(frozenset({"video", *names})))):
        assert np.abs(sample.video.astype(float) - sample.fields["control"]).mean() < 3
        for i, across in enumerate(sample.fields["pose"][:, 0, 0, 0]):
            assert across == pytest.approx((bar(number + i / 8) - 0.5) * 1.5 + 0.5)
        assert sample.fields["reference"].shape == (1, 32, 32, 3)


def test_a_folder_of_pictures_has_one_for_each_frame_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "a.depth"
    folder.mkdir()
    for i in range(48):
        Image.fromarray(np.full((64, 96, 3), i, np.uint8)).save(folder / f"{i:03d}.png")
    found = read_beside("depth", folder, CUT, CLIP)
    FIELDS["depth"].check(found, "a.depth")
    assert [round(255 - frame[16, 16]) for frame in found] == [24, 27, 30, 33]


def test_openposes_pixels_are_those_of_the_video(tmp_path: Path) -> None:
    file = tmp_path / "a.pose.json"
    people = [{"people": [{"pose_keypoints_2d": [48 + i / 4, 32, 0.9] * 18}]} for i in range(48)]
    file.write_text(json.dumps(people))
    found = read_beside("pose", file, CUT, CLIP)
    assert found.shape == (4, 1, 18, 3)
    assert found[:, 0, 0, 0] == pytest.approx([0.5 + i / 4 / 64 for i in (24, 27, 30, 33)], abs=1e-5)


def test_a_picture_that_stands_upright_is_cut_above_and_below(tmp_path: Path) -> None:
    file = tmp_path / "a.pose.json"
    file.write_text(json.dumps([[[[0.5, 0.25, 1]] * 17]] * 48))
    [joint, *_] = read_beside("pose", file, CUT, CLIP | {"aspect": 0.5})[:, 0, 0]
    assert joint.tolist() == pytest.approx([0.5, 0, 1])


def test_thirty_three_joints_are_known() -> None:
    pose = np.random.default_rng(0).random((2, 1, 33, 3), np.float32)
    FIELDS["pose"].check(pose, "a")
    np.testing.assert_allclose(mirrored(mirrored(pose)), pose, atol=1e-6)


def test_a_video_without_its_file_is_named_and_a_detector_may_look(
    dance: Path, run: Callable[..., Prepared], studio: Any
) -> None:
    Image.fromarray(studio.picture(1.0)).save(dance.with_suffix(".edges.png"))
    studio.caption(studio.write_video(dance.with_name("other.mp4"), FPS, 2.0))
    done = run("edges")
    assert [row.detail for row in read_ledger(done.folder)] == [
        "no other.edges.* beside it, as beside others"
    ]
    found = run("edges:canny", out="found")
    assert found.manifest.counts["clips"] == 5
    assert "canny" in found.manifest.settings["fields"]["edges"]


def test_a_clip_with_a_caption_of_its_own_is_a_video(dance: Path, studio: Any) -> None:
    """Whatever it is called; without one it belongs to the video whose name it begins with."""
    own = studio.write_video(dance.with_name("dänce 1.source.mp4"), FPS, 1.0)
    assert own in Given([dance, own])
    studio.caption(own)
    assert own not in Given([dance, own])


def test_a_file_that_changes_is_another_source(
    dance: Path, run: Callable[..., Prepared], studio: Any
) -> None:
    Image.fromarray(studio.picture(1.0)).save(dance.with_suffix(".edges.png"))
    run("edges")
    Image.fromarray(studio.picture(3.9)[:, :70]).save(dance.with_suffix(".edges.png"))
    with pytest.raises(ValueError, match="prepared from other files"):
        run("edges")


def test_what_can_not_be_is_refused_in_a_sentence(dance: Path, run: Callable[..., Prepared]) -> None:
    with pytest.raises(ValueError, match=r"in vgen prepare NAME\.depth\.\* beside NAME\.mp4"):
        run("depth")
    file = dance.with_suffix(".mask.npy")
    np.save(file, np.zeros((4, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="has 4 entries, and frame 21 of the video is needed"):
        run("mask")
    with pytest.raises(ValueError, match=r"camera\.move=pan_left moves the picture, and mask is known"):
        run("mask", camera=CameraMove(move=Move.PAN_LEFT))
    np.save(file, np.zeros((72, 64, 96), np.uint8))
    with pytest.raises(ValueError, match="pictures of 96 x 64 px, clips are 32 px square"):
        run("mask", out="again")
    dance.with_suffix(".mask.png").write_bytes(b"")
    with pytest.raises(ValueError, match="are both mask of dänce 1; keep one of them"):
        Given([dance])
