"""The demo at its smallest: every stage runs on the shipped model and leaves what it says."""
from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from vgen.app.demo import demo


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    found = demo(out, steps=2, num_clips=2, console=console)
    assert re.search(r"coherence: untrained [\d.]+ \[.*trained .*shipped [\d.]+ \[", console.export_text())
    assert set(found.summary["checkpoints"]) == {"untrained", "trained", "shipped"}
    report = out / "evaluation" / "report"
    assert "shipped" in (report / "index.html").read_text(encoding="utf-8")
    assert len(list((report / "clips").glob("*.mp4"))) == 2 * 4, "two captions: the truth and three checkpoints"
    assert len(list((out / "clips").glob("*.gif"))) == 1
    assert {p.name for p in (out / "exports").iterdir()} == {"motion_module.safetensors", "motion_adapter"}


def test_demo_keeps_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="was not made by vgen demo"):
        demo(tmp_path, steps=1, num_clips=1, console=Console(quiet=True))
