"""Where a run's time goes: the clock, the file, and what of it was productive."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgen.training.clock import Clock, Doing
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.run import fit
from vgen.training.timeline import BEGIN, END, STEPS, TIMELINE, Timeline, goodput, read


def test_a_second_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    now = 2.0
    clock.enter(Doing.STEP)
    now = 5.0
    with clock.during(Doing.SAVE):
        now = 6.0
    now = 10.0
    found = clock.seconds()
    assert (found[Doing.SETUP], found[Doing.STEP], found[Doing.SAVE]) == (2, 7, 1)
    assert sum(found.values()) == 10


def row(event: str, at: float, step: int, /, **seconds: float) -> dict[str, Any]:
    return {"event": event, "at": at, "step": step, "seconds": seconds}


def test_lost_steps_and_the_time_between_processes() -> None:
    """Ten steps of a second each, of which four are lost with the process; a saving in between."""
    rows = [
        row(BEGIN, 100, 0),
        row(STEPS, 110, 5, setup=4, step=5, data=1),
        row(STEPS, 117, 10, setup=4, step=10, data=2, save=1),
        row(BEGIN, 130, 6),
        row(END, 141, 10, setup=3, step=4, evaluate=2, draw=1),
    ]
    found = goodput(rows)
    assert found.wall == 41
    assert (found.num_steps, found.num_lost, found.num_restarts) == (10, 4, 1)
    assert (found.productive, found.lost) == (10, 4)
    assert (found.setup, found.data, found.save, found.evaluate, found.draw) == (7, 2, 1, 2, 1)
    assert found.down == 13
    assert found.other == 1
    assert found.share == pytest.approx(10 / 41)


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / TIMELINE
    path.write_text(f'{json.dumps(row(BEGIN, 1, 0))}\n{json.dumps(row(STEPS, 2, 1))}\n{{"event": "ste')
    assert len(read(tmp_path)) == 2
    path.write_text(json.dumps(row(STEPS, 2, 1)))
    with pytest.raises(ValueError, match="does not begin with a process"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"has no timeline\.jsonl; give the folder of a run"):
        read(tmp_path / "nothing")


def test_a_disk_that_refuses_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timeline = Timeline(tmp_path / "gone", Clock(), 1)
    timeline.begin(0)
    timeline.note(STEPS, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_run_tells_where_its_time_went(quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    step = Learner.training_step

    def slow(self: Learner, batch: Any, index: int) -> Any:
        time.sleep(0.05)
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", slow)
    folder = fit(quick(4, log_every_steps=2, checkpoint_every_steps=2, val_every_steps=4))
    rows = read(folder)
    assert [(one["event"], one["step"]) for one in rows] == [(BEGIN, 0), (STEPS, 2), (STEPS, 4), (END, 4)]
    found = goodput(rows)
    assert found.productive > 4 * 0.05
    assert min(found.setup, found.save, found.evaluate) > 0
    assert found.draw == found.lost == found.down == 0
    parts = found.productive + found.data + found.setup + found.save + found.evaluate + found.other
    assert parts == pytest.approx(found.wall, abs=0.2)


def test_a_run_that_goes_on_counts_what_it_does_again(
    quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.training_step

    def fails(self: Learner, batch: Any, index: int) -> Any:
        if self.global_step == 5:
            raise RuntimeError("a defect")
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", fails)
    with pytest.raises(RuntimeError, match="a defect"):
        fit(quick(8, checkpoint_every_steps=3))
    monkeypatch.setattr(Learner, "training_step", step)
    found = goodput(read(fit(quick(8, checkpoint_every_steps=3, resume=True))))
    assert (found.num_steps, found.num_lost, found.num_restarts) == (8, 2, 1)
    assert found.lost > 0
