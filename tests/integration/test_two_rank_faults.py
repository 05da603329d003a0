"""A fault in one of two ranks: both end by themselves, and the run that goes on ends with the bits of one
that nothing befell, with each sample once an epoch."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vgen.app.checkpoints import audited
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.formats.adapter import load_adapter
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import MOMENTS, WEIGHTS

SCRIPT = Path(__file__).with_name("faulty_runs.py")
TOLD = "16 samples in 4 epochs (of the last 1 of 5), none lost, none repeated, up to step 8"
KILLED, REQUEUE, TERMINATED = -9, 75, 143
Run = Callable[..., list[int | str]]
"""Trains in a folder by a strategy, with a fault or none; gives the exit code of each rank."""
Whole = Callable[[str], Path]


# -- runs ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """In memory where that is possible: what is flushed to a disk takes most of the time of a run."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def run(place: Path) -> Iterator[Path]:
    yield place / "run"
    shutil.rmtree(place / "run", ignore_errors=True)
    (place / "run.log").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def train_on_two(environment: Callable[..., dict[str, str]], place: Path) -> Iterator[Run]:
    """On five clips of seven."""
    source = ToyboxSource(num_clips=7, seed=5)
    wish = Prepare(data=source, out=str(place / "toy"), num_frames=8, num_processes=1)
    prepare(wish, lambda *_: None)
    shared = {"DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), str(place / "toy")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=environment(**shared), **pipes)
    assert server.stdin is not None
    assert server.stdout is not None

    def train(folder: Path, strategy: str, fault: str = "") -> list[int | str]:
        wish = {"folder": str(folder), "strategy": strategy, "fault": fault}
        print(json.dumps(wish), file=server.stdin, flush=True)
        for line in server.stdout:
            if line.startswith("codes: "):
                return json.loads(line.removeprefix("codes: "))
        raise AssertionError(f"it ended with {server.wait()}")

    with server:
        yield train
        server.stdin.close()


@pytest.fixture(scope="session")
def whole(train_on_two: Run, place: Path) -> Whole:
    """The run that nothing befell, once for each strategy."""
    made: dict[str, Path] = {}

    def of(strategy: str) -> Path:
        if "deepspeed" in strategy and importlib.util.find_spec("deepspeed") is None:
            pytest.skip("deepspeed is not installed")
        if strategy not in made:
            folder = place / strategy
            assert train_on_two(folder, strategy) == [0, 0], said(folder)
            assert audited(folder / "checkpoints") == TOLD
            made[strategy] = folder
        return made[strategy]

    return of


def said(folder: Path) -> str:
    return Path(f"{folder}.log").read_text()


def assert_same_bits(got: Path, want: Path) -> None:
    """Adapter, weights, moments, averages and counters."""
    a, b = (load_adapter(run / "adapter.safetensors")[0] for run in (got, want))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], value) for name, value in b.items())
    a, b = (room.opened(run / "checkpoints" / "step-0000008") for run in (got, want))
    assert (a.state.optimizer_steps, a.state.scheduler) == (b.state.optimizer_steps, b.state.scheduler)
    assert (a.names, a.state.ema_updates) == (b.names, b.state.ema_updates)
    for file in b.names:
        tensors = a.tensors(file)
        assert all(torch.equal(tensors[name], value) for name, value in b.tensors(file).items()), file


# -- faults --------------------------------------------------------------------------------------------------
def flip_a_bit(folder: Path) -> None:
    path = room.steps(folder / "checkpoints")[0] / WEIGHTS
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


def cut_moments(folder: Path) -> None:
    path = room.steps(folder / "checkpoints")[0] / MOMENTS
    os.truncate(path, path.stat().st_size // 2)


def nothing(folder: Path) -> None: ...


ZERO = pytest.mark.deepspeed
SHORT = [
    ("ddp", "before a checkpoint's rename", nothing, [KILLED, REQUEUE]),
    pytest.param(
        "deepspeed_zero2", "border of two epochs between steps", flip_a_bit, [REQUEUE, KILLED], marks=ZERO
    ),
]
"""In seconds."""

FAULTS = [
    ("forward", nothing, [REQUEUE, KILLED]),
    ("backward", nothing, [KILLED, REQUEUE]),
    ("backward of the other rank", nothing, [REQUEUE, KILLED]),
    ("before the optimiser's step", nothing, [KILLED, REQUEUE]),
    ("after the optimiser's step", nothing, [REQUEUE, KILLED]),
    ("border of two epochs within a step", nothing, [KILLED, REQUEUE]),
    ("border of two epochs between steps", nothing, [REQUEUE, KILLED]),
    ("line of the ledger", nothing, [REQUEUE, KILLED]),
    ("evaluation", nothing, [REQUEUE, KILLED]),
    ("best half written", nothing, [KILLED, REQUEUE]),
    ("weights half written", nothing, [KILLED, REQUEUE]),
    ("moments half written", nothing, [KILLED, REQUEUE]),
    ("the other rank while one saves", nothing, [REQUEUE, KILLED]),
    ("before a checkpoint's rename", nothing, [KILLED, REQUEUE]),
    ("after a checkpoint's rename", nothing, [KILLED, REQUEUE]),
    ("before LATEST is renamed", nothing, [KILLED, REQUEUE]),
    ("before the last checkpoint's rename", nothing, [KILLED, REQUEUE]),
    ("between the last checkpoint and the adapter", nothing, [KILLED, 0]),
    ("adapter half written", nothing, [KILLED, 0]),
    ("stopped", nothing, [REQUEUE, REQUEUE]),
    ("USR1", nothing, [REQUEUE, REQUEUE]),
    ("TERM", nothing, [TERMINATED, TERMINATED]),
    ("full disk, then killed", nothing, [KILLED, REQUEUE]),
    ("full disk, then room", nothing, [0, 0]),
    ("border of two epochs between steps", flip_a_bit, [REQUEUE, KILLED]),
    ("border of two epochs between steps", cut_moments, [REQUEUE, KILLED]),
]
"""What befalls a run, what is done to its folder before it goes on, and how the two ranks end."""


def goes_on(
    train: Run, whole: Whole, folder: Path, strategy: str, fault: str, harm: Callable[[Path], None]
) -> list[int | str]:
    """Train with a fault, then without; how the first ended."""
    want = whole(strategy)
    codes = train(folder, strategy, fault)
    harm(folder)
    assert train(folder, strategy) == [0, 0], said(folder)
    assert audited(folder / "checkpoints") == TOLD
    assert_same_bits(folder, want)
    left = {path.name for path in (folder / "checkpoints").iterdir() if not path.name.endswith(".unsound")}
    assert left == {"LATEST", "best", "step-0000006", "step-0000008"}
    return codes


@pytest.mark.parametrize(("strategy", "fault", "harm", "codes"), SHORT)
def test_two_ranks_go_on(
    strategy: str,
    fault: str,
    harm: Callable[[Path], None],
    codes: list[int],
    train_on_two: Run,
    whole: Whole,
    run: Path,
) -> None:
    assert goes_on(train_on_two, whole, run, strategy, fault, harm) == codes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_zero2", marks=ZERO)])
@pytest.mark.parametrize(("fault", "harm", "codes"), FAULTS)
def test_two_ranks_go_on_whatever_befell_them(
    strategy: str,
    fault: str,
    harm: Callable[[Path], None],
    codes: list[int],
    train_on_two: Run,
    whole: Whole,
    run: Path,
) -> None:
    assert goes_on(train_on_two, whole, run, strategy, fault, harm) == codes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_zero2", marks=ZERO)])
def test_two_ranks_go_on_after_several_faults(
    strategy: str, train_on_two: Run, whole: Whole, run: Path
) -> None:
    for fault in ("forward", "backward", "evaluation"):
        assert KILLED in train_on_two(run, strategy, fault)
    goes_on(train_on_two, whole, run, strategy, "adapter half written", nothing)
