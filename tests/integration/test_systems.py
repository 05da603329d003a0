"""Every file of ``benchmarks/systems`` runs in its short form, and its figures have their fields."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vgen.app.figures import said
from vgen.methods import catalogue

ROOT = Path(__file__).parents[2]
SYSTEMS = sorted({path.stem for path in (ROOT / "benchmarks" / "systems").glob("*.py")} & set(catalogue()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: shards that two systems share are written once."""
    return tmp_path_factory.mktemp("systems")


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_its_figures_have_their_fields(folder: Path, name: str) -> None:
    words = [f"out={folder}", f"only={name}", "short=true"]
    command = [sys.executable, "-m", "benchmarks.systems", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    row = json.loads((folder / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    assert row["short"] is True
    assert row["figures"]
    for figure in row["figures"]:
        assert figure["ours"]["num"] >= 1, figure
        assert ("theirs" in figure) == ("beyond" in figure) == ("control" in figure), figure
        assert figure["what"] in said(figure)
    with Image.open(folder / "figures" / f"{name}.webp") as picture:
        assert getattr(picture, "n_frames", 1) > 1
    assert len(row["titles"]) >= 1


def test_a_system_without_a_file_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.systems", f"out={tmp_path}", "only=nothing"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "only=nothing has no file in benchmarks/systems" in done.stderr
