"""Training runs in processes of their own, as a user starts them, and the one-process run that they are
measured against."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from slurm_lab import slurm, submit  # noqa: F401  # fixtures
from torch import Tensor

from vgen.backbones.blank import Blank, blank
from vgen.data.clips import Window
from vgen.formats.adapter import load_adapter
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods.animatediff import AnimateDiff
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Accelerator, TrainerSettings

VGEN = Path(sys.executable).with_name("vgen")
STEPS, SEED, EPS = 3, 3, 1e-3  # AdamW's eps: so large that rounding cannot turn an update round
OVERRIDES = [
    "method.motion.heads=4",
    "backbone=blank",
    "backbone.blank=toybox",
    "data.window.num_frames=4",
    "data.val_clips=4",
    "data.cache=true",
    "trainer.accelerator=cpu",
    "trainer.log_every_steps=1",
    "trainer.val_every_steps=1",
    "trainer.checkpoint_every_steps=1",
    "trainer.num_threads=1",
    f"optim.eps={EPS}",
    "optim.lr=1e-3",
    "optim.ema_decay=0.9",
    f"run.seed={SEED}",
]

Train = Callable[..., subprocess.CompletedProcess]


def _environment(**more: str) -> dict[str, str]:
    """One thread, no tracker, no traces of another launcher."""
    launchers = (
        "SLURM_",
        "MASTER_",
        "LOCAL_RANK",
        "NODE_RANK",
        "WORLD_SIZE",
        "RANK",
        "TORCHELASTIC_",
        "VGEN_",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    return kept | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"} | more


@pytest.fixture
def train(toy_shards: Path, tmp_path: Path) -> Train:
    """Runs ``vgen train`` with the console script in the folder ``run``; the test fails with its output where
    it should have worked."""

    def run(
        *overrides: str, env: dict[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess:
        here = [
            f"data.path={toy_shards}",
            f"trainer.max_steps={STEPS}",
            f"run.dir={tmp_path}",
            "run.name=run",
        ]
        command = [str(VGEN), "train", *OVERRIDES, *here, *overrides]
        env = _environment() if env is None else env
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def alone(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples in one process, two per step."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    trainer = TrainerSettings(
        accelerator=Accelerator.CPU,
        max_steps=STEPS,
        val_every_steps=1,
        checkpoint_every_steps=1,
        log_every_steps=1,
        num_threads=1,
    )
    return fit(
        Job(
            recipe=AnimateDiff(motion=MotionModuleSpec(heads=4)),
            model=blank(Blank.TOYBOX, seed=0),
            settings=trainer,
            logger=LoggerSettings(),
            samples=SampleSettings(),
            corpus=Corpus(
                path=str(toy_shards), window=Window(num_frames=4), batch_size=2, val_clips=4, cache=True
            ),
            optimisation=Optimisation(lr=1e-3, eps=EPS, ema_decay=0.9),
            folder=folder,
            name="alone",
            seed=SEED,
            resume=False,
            plain={},
        )
    )


def _figures(folder: Path, name: str) -> list[float]:
    """One figure by step, over all parts of a resumed run."""
    rows = [
        row
        for path in folder.glob("metrics*/metrics.csv")
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    ]
    return [
        float(value) for _, value in sorted((int(row["step"]), row[name]) for row in rows if row.get(name))
    ]


def _assert_same_adapter(got: Path, want: Path) -> None:
    """Equal up to fp32 rounding, relative to each tensor's own size."""
    tensors, card = load_adapter(got / "adapter.safetensors")
    expected, expected_card = load_adapter(want / "adapter.safetensors")
    assert card.summary == expected_card.summary
    assert card.backbone == expected_card.backbone
    assert set(tensors) == set(expected)
    for name, value in expected.items():
        assert _distance(tensors[name], value) < 1e-3, name


def _distance(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    assert torch.isfinite(got).all()
    return float((got - want).norm() / want.norm().clamp(min=1e-6))


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    return _environment


@pytest.fixture(scope="session")
def figures() -> Callable[[Path, str], list[float]]:
    return _figures


@pytest.fixture(scope="session")
def assert_same_adapter() -> Callable[[Path, Path], None]:
    return _assert_same_adapter


@pytest.fixture(scope="session")
def overrides() -> list[str]:
    return OVERRIDES
