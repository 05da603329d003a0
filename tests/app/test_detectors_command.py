"""``vgen detectors`` on a narrow terminal, and where what runs the nets is not there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from vgen.app import detectors


@pytest.fixture
def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_DETECTORS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["vgen detectors"])


@pytest.mark.usefixtures("narrow")
def test_names_are_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    detectors.main()
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines()[1:7])) <= 80


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("there", [True, False])
def test_what_runs_them_is_asked_for(
    there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    detectors.main()
    assert ("pip install 'vgen[detectors]'" in capsys.readouterr().out) is not there
