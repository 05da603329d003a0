"""``vgen prepare`` as it is typed."""

from __future__ import annotations

import pytest

from vgen.app import cli


@pytest.fixture
def vgen(tmp_path, monkeypatch, capfd):
    """Runs ``vgen prepare`` in an empty folder; gives exit code, output and error text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "120")

    def typed(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vgen", "prepare", *arguments])
        code = cli.run("prepare", list(arguments))
        return code, *capfd.readouterr()

    return typed


def test_the_toybox_in_one_command(vgen, tmp_path):
    code, out, err = vgen("data=toybox", "data.num_clips=4", "num_frames=2", "size_px=16", "num_processes=1")
    assert (code, err) == (0, "")
    for word in ("clips", "seconds", "rejected", "size", "where", "data/prepared/toybox"):
        assert word in out
    assert [p.name for p in tmp_path.iterdir()] == ["data"]  # no outputs/, no log
    assert "already complete" in vgen("data=toybox", "data.num_clips=4", "num_frames=2", "size_px=16")[1]


def test_a_folder_in_one_command(vgen, videos):
    code, out, err = vgen(f"data.path={videos}", "out=here", "clip_seconds=1", "size_px=32", "video=npy")
    assert (code, err) == (0, "")
    assert "10" in out
    assert "0 of 6 rows" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["size=64"], "size is not a key"),
        (["data.pth=x"], "data.pth is not a key"),
        (["data=toybx"], "data=toybx is not an option"),
        (["fps=fast"], "fps"),
        (["fps=0"], "fps must lie in 0.01..240, got 0"),
        ([], "data=folder needs the folder of videos: data.path=FOLDER"),
        (["data.path=nowhere"], "data.path=nowhere is no folder"),
        (["data=toybox", "data.num_clips=0"], "at least one clip, got num_clips=0"),
    ],
)
def test_mistakes_speak(vgen, tmp_path, arguments, message):
    code, _, err = vgen(*arguments)
    assert code == 2
    assert err.startswith("vgen prepare: ")
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (
            "data.mix.two_things=1.5",
            "a mix needs two_things and camera, shares of the scenes, in 0..1, got 1.5 and 0",
        ),
        ("data.mix.core=nan", "a mix needs finite shares of the families"),
        (
            "num_frames=40",
            "a clip of the toybox must have at least one frame and end within 15 ticks, where things leave "
            "the canvas, got num",
        ),
        ("clip_seconds=3", "a clip of the toybox must have at least one frame and end within 15 ticks"),
    ],
)
def test_a_toybox_that_cannot_be_is_refused_at_once(vgen, tmp_path, argument, sentence):
    code, _, err = vgen("data=toybox", "data.num_clips=4", argument)
    assert code == cli.REFUSED
    assert err.startswith(f"vgen prepare: {sentence}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_captions_longer_than_text_encoders_are_counted(vgen, studio, tmp_path):
    for name, words in (("a", 76), ("b", 75)):
        studio.caption(studio.write_video(tmp_path / "in" / f"{name}.mp4"), "word " * words)
    arguments = ("data.path=in", "out=here", "num_frames=8", "size_px=32", "num_processes=1")
    for _ in range(2):  # made, and found complete
        code, out, err = vgen(*arguments)
        assert (code, err) == (0, "")
        assert "1 of 2 rows (50%) have more than 75 words" in " ".join(out.split())
