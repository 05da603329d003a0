"""What takes long says so while it works."""

from __future__ import annotations

import pytest

from vgen.training import progress
from vgen.training.progress import TimeLeft


@pytest.mark.parametrize(("seconds", "lines"), [(1.0, 0), (6.0, 4), (120.0, 8)])
def test_a_line_every_ten_seconds_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, lines: int
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    told, silent = TimeLeft("samples of step 500", 9), TimeLeft("x", 9, speaks=False)
    for _ in range(9):
        now[0] += seconds
        told.step()
        silent.step()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == lines
    if seconds == 6.0:
        assert said[0] == "samples of step 500: step 2 of 9, 42 s left"
    if seconds == 120.0:
        assert said[0] == "samples of step 500: step 1 of 9, 16.0 min left"
