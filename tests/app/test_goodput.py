"""``vgen goodput``: what is printed of a run's timeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vgen.app import cli
from vgen.training.timeline import TIMELINE

ROWS = [
    {"event": "begin", "at": 0, "step": 0, "seconds": {}},
    {"event": "steps", "at": 100, "step": 80, "seconds": {"setup": 10, "step": 80, "data": 10}},
    {"event": "begin", "at": 130, "step": 40, "seconds": {}},
    {"event": "end", "at": 200, "step": 100, "seconds": {"setup": 5, "step": 60, "save": 5}},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / TIMELINE).write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    return tmp_path


def said(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vgen", "goodput", *words])
    return cli.main()


def test_the_table(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(run.parent)
    assert said(monkeypatch, run.name) == 0
    shown = capsys.readouterr().out
    assert "goodput 50.0% of 3.3 min" in shown
    assert "100 steps stayed, 40 done again, 1 restart" in shown
    for row in ("steps that stayed", "steps that were done again", "between processes", "waiting for data"):
        assert row in shown
    assert "previews" not in shown, "there were none"
    assert max(map(len, shown.splitlines())) <= 80


def test_json_says_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(monkeypatch, str(run), "format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["wall"], found["productive"], found["lost"], found["share"]) == (200, 100, 40, 0.5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give one run's folder: vgen goodput RUN"),
        (["runs/none"], "has no timeline.jsonl; give the folder of a run"),
        (["a", "format=xml"], "format=xml is not known; write format=table or format=json"),
    ],
)
def test_one_sentence(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(monkeypatch, *words) == 2
    assert sentence in capsys.readouterr().err
