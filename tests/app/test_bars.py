"""Work that takes long says how far it is, in a job's log too."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vgen.app.bars import Bars, steps_shown
from vgen.training import progress


def told(
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    num: int,
    begun: int = 0,
    console: Console | None = None,
) -> list[str]:
    """Lines about ``num`` clips of ``seconds`` each, of which ``begun`` were there."""
    now = [0.0]
    console = console or Console(file=io.StringIO())
    with Bars("{task.description}", console=console, unit="clip", get_time=lambda: now[0]) as bars:
        task = bars.add_task("drawing", total=num, completed=begun)
        for i in range(begun, num):
            now[0] += seconds
            bars.update(task, completed=i + 1, found=f"{i + 1} clips")
    return capsys.readouterr().out.splitlines()


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, 1.0, 9) == []
    lines = told(capsys, 6.0, 9)
    assert lines[0] == "drawing: clip 2 of 9, 42 s left, 2 clips"
    assert len(lines) == 4, "none at the end"


def test_what_was_there_before_is_no_part_of_the_pace(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, 20.0, 100, begun=90)
    assert lines[1] == "drawing: clip 92 of 100, 2.7 min left, 92 clips"


def test_a_log_of_hours_stays_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(told(capsys, 10.0, 3000)) < 150


@pytest.mark.parametrize("console", [Console(quiet=True), Console(file=io.StringIO(), force_terminal=True)])
def test_no_line_where_a_bar_is_shown_or_nothing_is_wanted(
    capsys: pytest.CaptureFixture[str], console: Console
) -> None:
    assert told(capsys, 60.0, 9, console=console) == []


def test_steps_of_a_drawing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    with steps_shown(Console(file=io.StringIO()), 3) as on_step:
        for _ in range(3):
            on_step()
    assert capsys.readouterr().out.splitlines()[-1].startswith("drawing: step 2 of 3")
