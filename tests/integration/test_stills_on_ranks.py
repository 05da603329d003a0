"""Stills among clips on two processes: layers over frames get no gradient in a step of stills, on any rank,
and what is trained is what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
VGEN = Path(sys.executable).with_name("vgen")
STEPS = 4
"""Two of stills, two of clips."""

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(
    toy_shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
    overrides: list[str],
    environment: Callable[..., dict[str, str]],
) -> Trained:
    """The folder of a run, by its name."""
    folder = tmp_path_factory.mktemp("runs")
    usual = [word for word in overrides if not word.startswith("method.")]
    stills = [f"data.path={toy_shards}", f"data.stills={toy_shards}", "data.stills_share=0.5"]
    recipe = ["method=make_a_video", "method.rates.max_skip=2"]

    def run(name: str, *words: str, steps: int = STEPS) -> Path:
        here = [f"trainer.max_steps={steps}", f"run.dir={folder}", f"run.name={name}"]
        command = [str(VGEN), "train", *usual, *recipe, *stills, *here, *words]
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / name

    return run


@pytest.fixture(scope="module")
def one(trained: Trained) -> Path:
    return trained("one", "trainer=cpu", "data.batch_size=2")


def test_two_ranks_equal_one(trained: Trained, one: Path, figures, assert_same_adapter) -> None:
    two = trained("two", "trainer=ddp", "data.batch_size=1")
    assert figures(two, "train/loss") == pytest.approx(figures(one, "train/loss"), rel=1e-4)
    assert_same_adapter(two, one)


@pytest.mark.deepspeed
def test_zero_equals_one_and_resumes(trained: Trained, one: Path, figures, assert_same_adapter) -> None:
    on_cpu = os.environ | {"DS_ACCELERATOR": "cpu"}
    tried = subprocess.run(
        [sys.executable, "-c", "import deepspeed"], env=on_cpu, capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"deepspeed does not import: {tried.stderr.strip().splitlines()[-1]}")
    words = ("trainer=deepspeed_zero2", "data.batch_size=1")
    trained("zero", *words, steps=2)
    zero = trained("zero", *words, "run.resume=auto")
    assert figures(zero, "train/loss") == pytest.approx(figures(one, "train/loss"), rel=1e-4)
    assert_same_adapter(zero, one)
