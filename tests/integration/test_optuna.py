"""Hydra's sweeper for Optuna: trials that learn from each other end on one leaderboard. A package of its own,
which needs not be there."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

INSTALLED = (
    importlib.util.find_spec("hydra_plugins") is not None
    and importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
)
WORDS = [
    "-m",
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_jobs=1",
    "adapter=shipped",
    "suite=smoke",
    "sweep=search",
]
SMALL = ["n=1", "suite.num_frames=2", "sampling.num_steps=2", "selftest=0", "page.max_clips=0"]


def evaluated(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vgen.app.evaluate", *WORDS, *SMALL, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.skipif(
    not INSTALLED,
    reason="needs Optuna's sweeper: pip install 'vgen[optuna]' (in a clone: .venv/bin/pip install -e "
    "'.[optuna]')",
)
def test_three_trials_end_on_one_leaderboard(tmp_path: Path) -> None:
    """And the best that Optuna names is the best of the summaries."""
    search = ["hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1"]
    done = evaluated(
        tmp_path,
        *search,
        "hydra.sweep.dir=outputs/sweeps/search",
        "sampling.guidance=interval(1,12)",
        "objective=pixel_agreement",
    )
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "outputs" / "sweeps" / "search"
    [board] = json.loads((sweep / "leaderboard.json").read_text())["leaderboards"]
    summaries = [json.loads(path.read_text()) for path in sweep.glob("*/summary.json")]
    values = {
        of["sampler"]["guidance"]: of["checkpoints"]["shipped"]["overall"]["pixel_agreement"]["mean"]
        for of in summaries
    }
    assert len(values) == len(board["rows"]) == 3
    assert len(set(values.values())) == 3, "the trials differ"
    assert all(1 <= guidance <= 12 for guidance in values)
    best = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert best["best_value"] == max(values.values())
    assert values[best["best_params"]["sampling.guidance"]] == best["best_value"]
    assert (sweep / "report" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(INSTALLED, reason="Optuna's sweeper is installed")
def test_without_the_package_the_remedy_is_named(tmp_path: Path) -> None:
    refused = evaluated(tmp_path, "sampling.guidance=interval(1,12)")
    assert refused.returncode == 2
    assert (
        refused.stderr.strip()
        == "vgen evaluate: hydra/sweeper=optuna is not installed; pip install 'vgen[optuna]'"
    )
