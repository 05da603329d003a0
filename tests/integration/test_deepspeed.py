"""DeepSpeed for real: two CPU processes over gloo train, save, resume and write what one process does on the
same samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def _deepspeed() -> None:
    """Imported in another process: it reads its accelerator once, and would read it for all tests of this
    one."""
    on_cpu = os.environ | {"DS_ACCELERATOR": "cpu"}
    tried = subprocess.run(
        [sys.executable, "-c", "import deepspeed"], env=on_cpu, capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"deepspeed does not import: {tried.stderr.strip().splitlines()[-1]}")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_equals_one_process_and_resumes(
    stage: int, train, figures, assert_same_adapter, tmp_path: Path, alone: Path
) -> None:
    run, overrides = tmp_path / "run", [f"trainer=deepspeed_zero{stage}", "data.batch_size=1"]
    train(*overrides, "trainer.max_steps=2")
    assert (run / "checkpoints" / "step-0000002" / "manifest.json").is_file()
    train(*overrides, "run.resume=auto")
    for name in ("train/loss", "val/loss", "optim/grad_norm"):
        assert figures(run, name) == pytest.approx(figures(alone, name), rel=1e-4), name
    assert_same_adapter(run, alone)
    left = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert left == ["LATEST", "best", "step-0000002", "step-0000003"], "a torn or former checkpoint was left"
