"""Two processes under DistributedDataParallel train what one process trains on the same samples."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_two_ranks_equal_one(train, figures, assert_same_adapter, tmp_path: Path, alone: Path) -> None:
    done = train("trainer=ddp", "data.batch_size=1")
    run = tmp_path / "run"
    assert done.stdout.count(f"run: {run}") == 1, "every rank speaks"
    assert figures(run, "train/loss") == pytest.approx(figures(alone, "train/loss"), rel=1e-4)
    assert figures(run, "val/loss") == pytest.approx(figures(alone, "val/loss"), rel=1e-4)
    assert_same_adapter(run, alone)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["run"], "a rank made a folder of its own"
