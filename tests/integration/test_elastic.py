"""A run goes on under any strategy and on any number of processes: the same samples and the same losses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from vgen.formats.adapter import load_adapter

STAGES = Path(__file__).with_name("stages.py")
Figures = Callable[[Path, str], list[float]]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def together(environment: Callable[..., dict[str, str]], num_ranks: int, *arguments: str | Path) -> None:
    """``num_ranks`` processes as torchrun starts them."""
    shared = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "test",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    shards, folder, *stages = (str(argument) for argument in arguments)
    command = [sys.executable, str(STAGES), shards, folder, str(num_ranks), *stages]
    started = []
    for rank in range(num_ranks):
        env = environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank))
        if num_ranks == 1:
            env = environment(PYTHONPATH=shared["PYTHONPATH"])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=env, **pipes))
    try:
        said = [process.communicate(timeout=1800)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(said)


def seen(folder: Path) -> dict[int, list[str]]:
    """The samples of each step, over all processes; the last that trained it counts."""
    steps: dict[int, list[str]] = defaultdict(list)
    for line in Path(f"{folder}.ledger.jsonl").read_text().splitlines():
        step, keys = json.loads(line)
        steps[step] += keys
    return {step: sorted(keys) for step, keys in steps.items()}


def assert_same_run(got: Path, want: Path, figures: Figures) -> None:
    assert seen(got) == seen(want), "the same samples, none lost and none repeated"
    losses, expected = figures(got, "train/loss"), figures(want, "train/loss")
    assert losses == pytest.approx(expected, abs=1e-5)
    tensors, reference = (load_adapter(run / "adapter.safetensors")[0] for run in (got, want))
    for name, value in reference.items():
        assert float((tensors[name] - value).norm() / value.norm().clamp(min=1e-6)) < 1e-3, name


@pytest.mark.slow
def test_two_ranks_go_on_as_one(environment, figures, toy_shards: Path, tmp_path: Path) -> None:
    together(environment, 1, toy_shards, tmp_path / "alone", "single:4")
    together(environment, 2, toy_shards, tmp_path / "run", "ddp:2")
    together(environment, 1, toy_shards, tmp_path / "run", "single:4")
    assert_same_run(tmp_path / "run", tmp_path / "alone", figures)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero2", "deepspeed_zero3"])
def test_two_ranks_one_and_three(
    strategy: str, environment, figures, toy_shards: Path, tmp_path: Path
) -> None:
    together(environment, 1, toy_shards, tmp_path / "alone", "single:6")
    for num_ranks, steps in ((2, 2), (1, 4), (3, 6)):
        together(environment, num_ranks, toy_shards, tmp_path / "run", f"{strategy}:{steps}")
    assert_same_run(tmp_path / "run", tmp_path / "alone", figures)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_any_strategy_goes_on_from_any_other(environment, figures, toy_shards: Path, tmp_path: Path) -> None:
    together(environment, 1, toy_shards, tmp_path / "alone", "single:10")
    run = tmp_path / "run"
    stages = [
        "ddp:1",
        "deepspeed_zero2:3",
        "deepspeed_zero3:5",
        "deepspeed_zero1:7",
        "deepspeed_zero2:8",
        "ddp:9",
    ]
    together(environment, 2, toy_shards, run, *stages)
    together(environment, 1, toy_shards, run, "single:10")
    assert_same_run(run, tmp_path / "alone", figures)
