"""Two processes that torchrun starts, by the commands of docs/guides/cluster.md."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from slurm_lab import environment_of, processes
from test_cluster_guide import ALONE, GUIDE, commands

from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.formats.adapter import load_adapter

pytestmark = pytest.mark.slow
COMMANDS = commands(GUIDE.read_text(encoding="utf-8").split(ALONE)[1])
MARK = "TORCHRUN_OF_TEST"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the guide's corpus."""
    out = tmp_path / "data" / "cluster"
    prepare(Prepare(data=ToyboxSource(num_clips=20), out=str(out), num_frames=4, num_processes=1))
    return tmp_path


@pytest.fixture
def env(folder: Path, environment: Callable[..., dict[str, str]]) -> Iterator[dict[str, str]]:
    """Of processes that end with the test: torchrun's are in sessions of their own."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    yield environment(**{"PATH": path, MARK: str(folder)})
    for pid in ours(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ours(folder: Path, *more: bytes) -> list[int]:
    marks = {f"{MARK}={folder}".encode(), *more}
    return [pid for pid in processes() if marks <= environment_of(pid)]


def test_it_trains_and_examines(folder: Path, env: dict[str, str]) -> None:
    for line in COMMANDS:
        words = shlex.split(line)
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    assert load_adapter(folder / "runs" / "second" / "adapter.safetensors")[1].summary["clips"] == 4
    assert "16 MiB of 2 ranks summed in" in done.stdout
    assert done.stdout.count("2 on 1 nodes") == 1, "one of them speaks"


def test_all_start_anew_where_one_is_killed(folder: Path, env: dict[str, str], overrides: list[str]) -> None:
    """By the guide's command, of a run with more steps."""
    more = [
        *overrides,
        "trainer.max_steps=40",
        "trainer.checkpoint_every_steps=10",
        "trainer.val_every_steps=100",
    ]
    changed = {word.split("=")[0] for word in more}
    words = [word for word in shlex.split(COMMANDS[0]) if word.split("=")[0] not in changed]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*words, *dict.fromkeys(more)], cwd=folder, env=env, stdout=out, stderr=out
        )
    run, end = folder / "runs" / "second", time.monotonic() + 240
    while not [*(run / "checkpoints").glob("step-*")]:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    [killed] = ours(folder, b"RANK=1")
    os.kill(killed, signal.SIGKILL)
    assert process.wait(240) == 0, log.read_text()
    assert "weights, optimiser, schedule" in log.read_text(), "it went on"
    assert load_adapter(run / "adapter.safetensors")[1].summary["steps"] == 40
