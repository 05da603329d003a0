"""The table of editing systems, from what measurements left."""

from __future__ import annotations

import pytest

from vgen.app import figures, methods
from vgen.app.figures import EDITING, editing_table


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
    assert head == "| system | n | EDIT | asked | kept | TC | warp x 100 | s a clip | GiB |"
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
    assert methods.head() == [title]


def test_nothing_measured_is_no_table() -> None:
    assert editing_table({"other": {"figures": []}}) == []
