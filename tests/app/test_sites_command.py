"""``vgen sites`` on a narrow terminal."""

from __future__ import annotations

import sys

import pytest

from vgen.app import sites


def test_addresses_are_told_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of them that end alike in a narrow column could not be told apart."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["vgen sites", "sd15_narrow"])
    sites.main()
    said = capsys.readouterr().out
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= 80
