"""Two processes of which one is slow: the figures name it, and the one that waits for data."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vgen.training.timeline import goodput, read

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("slow_rank.py")


def test_the_slow_rank_and_the_waiting_one_are_named(
    toy_shards: Path,
    tmp_path: Path,
    overrides: list[str],
    environment: Callable[..., dict[str, str]],
    figures: Callable[[Path, str], list[float]],
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    keys = [f"data.path={toy_shards}", f"run.dir={tmp_path}", "run.name=run", "trainer.max_steps=4"]
    keys += ["trainer=ddp", "data.batch_size=1", "trainer.log_every_steps=2", "data.cache=true"]
    done = subprocess.run(
        [*command, str(SCRIPT), *overrides, *keys, "trainer.val_every_steps=4"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "run"
    assert figures(run, "speed/slowest_rank") == [1, 1]
    assert figures(run, "speed/data_wait_rank") == [0, 0]
    assert figures(run, "speed/slowest_over_median")[-1] > 1.2
    [mean, most] = (figures(run, f"speed/data_wait{which}")[-1] for which in ("", "_most"))
    assert 0.02 < mean < most < 0.9
    assert goodput(read(run)).num_steps == 4
