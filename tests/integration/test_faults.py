"""Runs of real processes that are stopped, by whatever: each ends by itself, with a code that says what to do
next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vgen.formats.adapter import load_adapter

VGEN = Path(sys.executable).with_name("vgen")
DDP = ("trainer=ddp", "data.batch_size=1")
pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(
    environment: Callable[..., dict[str, str]], overrides: list[str], toy_shards: Path, tmp_path: Path
) -> Iterator[Start]:
    """``vgen train`` of the run ``run`` in a session of its own, which is ended with the test."""
    begun: list[subprocess.Popen] = []

    def run(*more: str, steps: int = 100_000) -> subprocess.Popen:
        here = [
            f"data.path={toy_shards}",
            f"trainer.max_steps={steps}",
            f"run.dir={tmp_path}",
            "run.name=run",
        ]
        quiet = [
            "trainer.preflight=false",
            "data.window.num_frames=1",
            "trainer.val_every_steps=100000",
            "trainer.checkpoint_every_steps=100000",
        ]
        with (tmp_path / f"log-{len(begun)}").open("wb") as log:
            process = subprocess.Popen(
                [str(VGEN), "train", *overrides, *here, *quiet, *more],
                cwd=tmp_path,
                env=environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun.append(process)
        return process

    yield run
    for process in begun:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            process.wait()


@pytest.fixture
def said(tmp_path: Path) -> Callable[[int], str]:
    return lambda at=0: (tmp_path / f"log-{at}").read_text()


def until(is_so: Callable[[], object], process: subprocess.Popen, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, "it ended first"
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


def wait_for_the_end_of(pid: int) -> None:
    end = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "it was left behind"
        time.sleep(0.2)


def trains(folder: Path) -> Callable[[], object]:
    """Whether steps have been taken: figures are there."""
    return lambda: any(path.stat().st_size for path in folder.glob("metrics*/metrics.csv"))


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def of_rank_1(process: subprocess.Popen) -> int:
    """The process that Lightning started."""
    for path in Path("/proc").glob("[0-9]*"):
        if parent_of(path) == process.pid and b"LOCAL_RANK=1" in (path / "environ").read_bytes().split(b"\0"):
            return int(path.name)
    raise AssertionError("rank 1 was never started")


@pytest.mark.parametrize(
    ("signum", "rank", "code"),
    [(signal.SIGUSR1, 0, 75), (signal.SIGHUP, 1, 75), (signal.SIGTERM, 0, 143), (signal.SIGINT, 0, 130)],
)
def test_two_ranks_save_after_the_same_step_and_go_on(
    start: Start, said: Callable[[int], str], tmp_path: Path, signum: int, rank: int, code: int
) -> None:
    run = tmp_path / "run"
    process = start(*DDP)
    until(trains(run), process)
    os.kill(of_rank_1(process) if rank else process.pid, signum)
    assert process.wait(240) == code, said(0)
    assert "Traceback" not in said(0)
    found = re.findall(r"stopped at step (\d+) by (?:SIG)?\w+.* goes on from step-0*(\d+)", said(0))
    assert len(found) == 1, said(0)
    done = int(found[0][0])
    assert found[0] == (str(done), str(done))
    again = start(*DDP, "run.resume=auto", steps=done + 2)
    assert again.wait(240) == 0, said(1)
    assert load_adapter(run / "adapter.safetensors")[1].summary["steps"] == done + 2


def test_of_two_new_runs_and_of_two_that_resume_one_is_the_owner(
    start: Start, said: Callable[[int], str], tmp_path: Path
) -> None:
    for more in ((), ("run.resume=auto",)):
        pair = [start(*more) for _ in range(2)]
        at = 2 * bool(more)
        end = time.monotonic() + 240
        while all(process.poll() is None for process in pair):
            assert time.monotonic() < end
            time.sleep(0.2)
        (refused,) = [i for i, process in enumerate(pair) if process.poll() is not None]
        owner = pair[1 - refused]
        assert pair[refused].returncode == 2, said(at + refused)
        assert re.search(rf"run .*/run belongs to process {owner.pid} on", said(at + refused))
        until(trains(tmp_path / "run"), owner)
        owner.send_signal(signal.SIGUSR1)
        assert owner.wait(120) == 75


def test_a_stopped_rank_ends_the_run_with_the_stacks_of_the_others(
    start: Start, said: Callable[[int], str], tmp_path: Path
) -> None:
    process = start(*DDP, "trainer.hang_seconds=30")
    until(trains(tmp_path / "run"), process)
    time.sleep(1)
    stopped = of_rank_1(process)
    os.kill(stopped, signal.SIGSTOP)
    assert process.wait(240) == 75, said(0)
    assert "Traceback" not in said(0)
    assert (
        len(re.findall(r"the run hangs: rank 0 was in step \d+ for \d+ s, at most \d+ are allowed", said(0)))
        == 1
    )
    told = [path.read_text() for path in (tmp_path / "run" / "stacks").glob("*/rank-*.txt")]
    assert len(told) == 2, "the stopped rank was waked to write its own"
    assert all("Thread 0x" in text for text in told)
    wait_for_the_end_of(stopped)


def test_a_stopped_first_rank_ends_too(start: Start, said: Callable[[int], str], tmp_path: Path) -> None:
    process = start(*DDP, "trainer.hang_seconds=30")
    until(trains(tmp_path / "run"), process)
    time.sleep(1)
    process.send_signal(signal.SIGSTOP)
    assert process.wait(240) in (75, -9), said(0)
    assert "the run hangs: rank 1 was in step" in said(0)
    assert "Traceback" not in said(0)


WORKERS = ("data.num_workers=1", "data.cache=false", "trainer.preflight=false")


def worker_of(pid: int) -> int:
    """The data worker of a process: forked from it, with its command line."""
    mine = Path(f"/proc/{pid}/cmdline").read_bytes()
    for path in Path("/proc").glob("[0-9]*"):
        if parent_of(path) == pid and (path / "cmdline").read_bytes() == mine:
            return int(path.name)
    raise AssertionError("there is no worker")


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
def test_a_data_worker_that_is_stopped_or_killed_ends_the_run_in_one_sentence(
    start: Start, said: Callable[[int], str], tmp_path: Path, signum: int
) -> None:
    process = start("trainer=cpu", *WORKERS, "trainer.hang_seconds=30")
    until(trains(tmp_path / "run"), process)
    worker = worker_of(process.pid)
    os.kill(worker, signum)
    assert process.wait(240) == 75, said(0)
    assert "Traceback" not in said(0)
    sentence = {
        signal.SIGSTOP: r"the run hangs: rank 0 was waiting for the data of step \d+",
        signal.SIGKILL: r"DataLoader worker .* which read ahead of samples [\w, -]+: memory may not suffice",
    }[signal.Signals(signum)]
    assert len(re.findall(sentence, said(0))) == 1, said(0)
    wait_for_the_end_of(worker)


def test_a_data_worker_of_another_rank_that_is_killed_ends_both(
    start: Start, said: Callable[[int], str], tmp_path: Path
) -> None:
    process = start(*DDP, *WORKERS)
    until(trains(tmp_path / "run"), process)
    os.kill(worker_of(of_rank_1(process)), signal.SIGKILL)
    assert process.wait(240) == 75, said(0)
    assert "Traceback" not in said(0)
    assert said(0).count("a worker of rank 1 which read ahead of samples") == 1, said(0)


def test_a_lost_rank_is_told_without_a_traceback(
    start: Start, said: Callable[[int], str], tmp_path: Path
) -> None:
    process = start(*DDP)
    until(trains(tmp_path / "run"), process)
    os.kill(of_rank_1(process), signal.SIGKILL)
    assert process.wait(240) in (75, -9), said(0)
    assert "Traceback" not in said(0)
    assert re.search(r"process \d+, ended with code -9|rank 0 lost another rank; stopped in step", said(0))
