"""Sweeps of training in processes of their own: a trial that fails is a row of the table, not the end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_optuna import INSTALLED

VGEN = Path(sys.executable).with_name("vgen")
pytestmark = pytest.mark.slow

Vgen = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def vgen(
    environment: Callable[..., dict[str, str]], overrides: list[str], toy_shards: Path, tmp_path: Path
) -> Vgen:
    """Runs a verb with the settings of a tiny training behind its words."""
    small = [*overrides, f"data.path={toy_shards}", "trainer.preflight=false", "data.batch_size=1"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(VGEN), *words, *small]
        env = environment(COLUMNS="200")
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return run


def rows(said: str) -> list[list[str]]:
    """Of the table at the end, without its rule."""
    lines = said[said.index("val/loss") :].splitlines()[2:]
    return [line.split() for line in lines if line.strip()]


def test_trials_in_a_pool_end_in_a_table(vgen: Vgen, tmp_path: Path) -> None:
    sweep = {
        "method": "grid",
        "parameters": {"trainer.max_steps": {"values": [1, -1, 2]}},
        "command": ["${env}", "vgen", "train", "${args_no_hyphens}", f"run.dir={tmp_path / 'runs'}"],
    }
    (tmp_path / "steps.yaml").write_text(yaml.safe_dump(sweep))
    done = vgen("sweep", "steps.yaml", "launch=local", "jobs=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trial 1 of 3: failed (2): vgen train: trainer.max_steps must be at least 1, got -1" in done.stdout
    first, second, third = rows(done.stdout)
    assert {first[-1], second[-1]} == {str(tmp_path / "runs" / f"steps-{i}") for i in (0, 2)}
    assert (third[1], third[-1], third[-2]) == ("-", "(failed)", str(tmp_path / "runs" / "steps-1"))
    assert "trainer.max_steps=-1" in third


def test_a_job_of_a_multirun_that_fails_ends_no_other(vgen: Vgen, tmp_path: Path) -> None:
    done = vgen("train", "-m", "trainer.max_steps=-1,1", f"run.dir={tmp_path}", "run.name=run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vgen train: job 0: trainer.max_steps must be at least 1, got -1" in done.stderr
    best, failed = rows(done.stdout)
    assert best[-1] == f"{tmp_path}/run-1"
    assert failed[-1] == "(failed)"
    refused = vgen("train", "-m", "trainer.max_steps=-1,-2", f"run.dir={tmp_path}", "run.name=none")
    assert refused.returncode == 2


@pytest.mark.skipif(not INSTALLED, reason="needs Optuna's sweeper: pip install 'vgen[optuna]'")
def test_optuna_minimises_the_held_out_loss(vgen: Vgen, tmp_path: Path) -> None:
    """And a trial that fails is worth nothing, and ends nothing."""
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.n_trials=3"]
    seed = ["hydra.sweeper.sampler.seed=1", "hydra.sweep.dir=search"]
    place = [f"run.dir={tmp_path}/runs", "run.name=run", "trainer.max_steps=1"]
    done = vgen("train", "-m", *search, *seed, *place, "optim.weight_decay=choice(-1,0.01,0.1)")
    assert done.returncode == 0, done.stdout + done.stderr
    best = yaml.safe_load((tmp_path / "search" / "optimization_results.yaml").read_text())
    losses = [float(row[1]) for row in rows(done.stdout) if row[1] != "-"]
    assert best["best_value"] == pytest.approx(min(losses), abs=1e-4)
