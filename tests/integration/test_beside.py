"""A module that learns beside a frozen UNet: stopped and resumed, and in two processes, it learns what it
learns in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tenants
import torch
from tenant_runs import STEPS, job, write_shards
from torch import Tensor

from vgen.data.batch import Batch
from vgen.formats.adapter import load_adapter
from vgen.methods import _recipe
from vgen.training.checkpoint_folder import WEIGHTS
from vgen.training.checkpoints import latest
from vgen.training.learner import Learner
from vgen.training.run import fit

pytestmark = pytest.mark.slow
LAWS = Path(__file__).parents[1] / "laws"


@pytest.fixture(scope="session")
def posed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("posed") / "shards")


@pytest.fixture
def enrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_recipe._catalogue, tenants.NAME, tenants.PoseModule)


class Killed(BaseException):
    """As by kill -9."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    run = Learner.training_step

    def dying(self: Learner, batch: Batch, index: int) -> Tensor:
        if self.trainer.global_step == step:
            raise Killed
        return run(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", dying)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_interrupted_module_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, posed: Path, enrolled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(job(posed, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        die_at(patch, 2)
        with pytest.raises(Killed):
            fit(job(posed, tmp_path / "parts"))
    parts = fit(job(posed, tmp_path / "parts", resume=True))
    averaged, again = (load_adapter(folder / "adapter.safetensors")[0] for folder in (whole, parts))
    assert same(again, averaged)
    assert all(name.startswith("pose.") for name in averaged)
    last: list[dict[str, Any]] = []
    for folder in (whole, parts):
        found = latest(folder / "checkpoints")
        assert found is not None
        last.append(found.tensors(WEIGHTS))
    assert all(name.startswith("pose.") for name in last[0])
    assert not same(averaged, last[0])
    assert same(last[1], last[0])


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_zero2", marks=pytest.mark.deepspeed)])
def test_two_processes_train_the_module_that_one_trains(
    strategy: str, tmp_path: Path, posed: Path, enrolled: None, environment, figures, assert_same_adapter
) -> None:
    alone, run = fit(job(posed, tmp_path / "alone")), tmp_path / "run"
    paths = os.pathsep.join([str(LAWS), *sys.path])
    command = [sys.executable, str(LAWS / "tenant_runs.py"), str(posed), str(run), strategy]
    env = environment(PYTHONPATH=paths)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("train/loss", "val/loss"):
        want = figures(alone, name)
        assert figures(run, name) == pytest.approx(want, rel=1e-5), name
    assert len(figures(run, "train/loss")) == STEPS
    tensors, card = load_adapter(run / "adapter.safetensors")
    assert card.recipe == tenants.NAME
    assert {name.split(".")[0] for name in tensors} == {"pose"}
    assert_same_adapter(run, alone)
