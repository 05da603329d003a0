"""Figures of the systems: what they say, how they are compared, and that a command of theirs runs once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.systems.__main__ import systems
from benchmarks.systems.gallery import write_gallery, write_picture
from benchmarks.systems.plan import Workplace, compared, plain
from vgen.app import figures, methods
from vgen.app.figures import EDITING, editing_table, measured, said
from vgen.methods import catalogue


def test_a_figure_says_mean_interval_control_and_difference() -> None:
    ours, theirs = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]
    row = json.loads(json.dumps(plain(compared("share", ours, "the copy", theirs))))
    words = said(row)
    assert words.startswith("share: 0.75 [")
    assert "; the copy: 0.25 [" in words
    assert "; difference +0.50 [" in words
    assert words.endswith("(n = 4)")
    assert said(plain(compared("flicker", [12.5, 12.5], less=True))) == (
        "flicker: 12.5 [12.5, 12.5] (n = 2, less is better)"
    )
    assert said(plain(compared("share", []))) == "share: no value (n = 0)"


def test_what_one_of_two_cannot_tell_is_left_out_of_both() -> None:
    figure = compared("share", [1.0, None, 0.5], "the copy", [0.0, 1.0, None])
    assert (figure.ours.mean, figure.theirs.mean, figure.beyond.num) == (1.0, 0.0, 1)
    with pytest.raises(ValueError, match="over the same clips, got 1 and 2"):
        compared("share", [1.0], "the copy", [0.0, 1.0])


def test_a_command_runs_once_and_again_where_it_is_another(tmp_path: Path) -> None:
    work = Workplace(tmp_path)
    write = (
        "import pathlib; p = pathlib.Path('count'); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"
    )
    for _ in range(2):
        work.run("count", [sys.executable, "-c", write])
    assert (tmp_path / "count").read_text() == "x"
    assert [note["name"] for note in work.notes] == ["count", "count"]
    work.run("count", [sys.executable, "-c", write + "  # other"])
    assert (tmp_path / "count").read_text() == "xx"
    with pytest.raises(SystemExit, match="bad ended with 3"):
        work.run("bad", [sys.executable, "-c", "raise SystemExit(3)"])
    assert not (tmp_path / "log" / "bad.json").exists()


def test_a_picture_moves_and_its_page_escapes_what_it_says(tmp_path: Path) -> None:
    video = np.zeros((4, 64, 64, 3), np.uint8)
    video[:, :, :, 1] = np.arange(4)[:, None, None] * 60
    write_picture(tmp_path / "control_net.webp", [("control", video[:1]), ("a <b>red</b> circle", video)])
    with Image.open(tmp_path / "control_net.webp") as image:
        assert (image.n_frames, image.size) == (4, (260, 186))
    row = {"figures": [plain(compared("<i>J</i>", [0.5, 0.7]))], "titles": ["control", "a <b>red</b> circle"]}
    write_gallery(tmp_path, {"control_net": row})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;J&lt;/i&gt;" in page
    assert 'alt="control_net, moving pictures: control; a &lt;b&gt;red&lt;/b&gt; circle"' in page
    assert "<b>red" not in page


def test_what_is_published_is_of_systems_that_are_there() -> None:
    gallery = Path(__file__).parents[2] / "docs" / "gallery"
    assert set(measured()) <= set(systems()) <= set(catalogue())
    assert all((gallery / f"{name}.webp").is_file() for name in measured())
    assert sum(path.stat().st_size for path in gallery.glob("*")) <= 8e6


def row(edit: float, gib: float | None = 1.234) -> dict:
    one = {"mean": edit, "low": edit - 0.1, "high": edit + 0.1, "num": 32}
    return {**dict.fromkeys(EDITING, one), "seconds": 2.06, "gib": gib}


def test_systems_and_their_controls_stand_once_each_the_best_first() -> None:
    known = {
        "a": {"editing": {"a": row(0.25), "copy": row(0.0, None)}},
        "b": {"editing": {"b": row(0.5), "copy": row(0.0, None)}},
        "other": {"figures": []},
    }
    head, line, *rows = editing_table(known)
    assert head == "| system | n | EDIT | asked | kept | TC | warp x 100 | CPU s a clip | GiB |"
    assert line.count("|") == head.count("|")
    assert [text.split(" | ")[0] for text in rows] == ["| b", "| a", "| copy"]
    assert rows[0].startswith("| b | 32 | 0.50 [0.40, 0.60] | ")
    assert rows[0].endswith("| 2.1 | 1.23 |")
    assert rows[2].endswith("| 2.1 | – |")


def test_the_table_leads_the_page_of_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "measured", lambda: {"a": {"editing": {"a": row(0.25)}}})
    title, table = methods.head()
    assert title.startswith("# Methods")
    assert "| a | 32 | 0.25 [0.15, 0.35] |" in table
    monkeypatch.setattr(figures, "measured", dict)
    assert not any("| a |" in part for part in methods.head())


def test_nothing_measured_is_no_table() -> None:
    assert editing_table({"other": {"figures": []}}) == []
