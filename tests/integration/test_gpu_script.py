"""``benchmarks/gpu.sh`` runs dry on a CPU, so that it works the first time on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


@pytest.mark.slow
def test_it_writes_one_table(tmp_path: Path) -> None:
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", SCRIPT, "dry", f"out={tmp_path / 'gpu.md'}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines[2] == "pytest -m gpu: not run: dry"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[6:]]
    found = {(what, side) for what, side, *_ in rows}
    for px in (64, 128):
        for clips in ("1 clip", "2 clips"):
            assert {(f"step, 2 x {px} px, {clips}", side) for side in ("ours", "diffusers")} <= found
        assert (f"step, 2 x {px} px, 1 clip, compiled", "ours") in found
    drawn = "sampling, 2 frames, 2 steps, guidance 7.5, 64 px"
    assert {(drawn, side) for side in ("ours", "diffusers")} <= found
    assert all(float(row[2]) > 0 for row in rows if row[2] != "no time left")


def test_what_it_does_not_know_is_refused() -> None:
    done = subprocess.run(["bash", SCRIPT, "fast"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (2, "gpu.sh takes dry and out=FILE, got fast\n")
