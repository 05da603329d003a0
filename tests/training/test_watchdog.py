"""The watchdog: how long what may take, and what is left of a process that takes longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vgen.training.exits import REQUEUE
from vgen.training.strategies import TrainerSettings
from vgen.training.watchdog import Watchdog

HANG = """
import logging, sys, time
from pathlib import Path
from vgen.training.watchdog import Peer, Watchdog
logging.basicConfig(format="%(message)s")
folder, rank, peer, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with Watchdog(folder, rank, seconds, 1e9) as watchdog:
    here = Peer.here()
    watchdog.peers = [here] if peer == 0 else [here, Peer(here.host, peer)]
    print("hangs", flush=True)
    watchdog.enter("in step 7", is_step=True)
    time.sleep(60)
"""


def hangs(folder: Path, rank: int = 0, peer: int = 0, seconds: float = 0.5) -> subprocess.Popen:
    asked = [sys.executable, "-c", HANG, *map(str, (folder, rank, peer, seconds))]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hangs\n"
    return process


def test_a_step_may_take_three_times_as_long_as_almost_all_before_it(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, 0, step_seconds=120, phase_seconds=3600)
    assert watchdog.limit == 3600, "setting up is no step"
    watchdog.enter("in step 1", is_step=True)
    assert watchdog.limit == 120
    for _ in range(200):
        watchdog.count_step(100)
    watchdog.count_step(5000)
    assert watchdog.limit == 300
    watchdog.enter("evaluating")
    assert watchdog.limit == 3600


@pytest.mark.parametrize("knob", ["hang_seconds", "phase_seconds"])
def test_a_limit_is_positive(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.{knob} must be positive, got 0"):
        TrainerSettings(**{knob: 0})


def test_a_step_that_hangs_ends_with_its_stacks_and_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".ending").write_text("of an earlier part of the run")
    said = (process := hangs(tmp_path)).communicate()[1]
    assert process.returncode == REQUEUE
    assert said.count("\n") == 1
    assert "the run hangs: rank 0 was in step 7 for" in said
    (stacks,) = tmp_path.glob("stacks/*/rank-0.txt")
    assert "rank 0, process" in stacks.read_text()
    assert "time.sleep" in stacks.read_text() or "<string>" in stacks.read_text()


@pytest.mark.parametrize("stopped", [False, True])
def test_all_ranks_write_their_stacks_and_end(tmp_path: Path, stopped: bool) -> None:
    with hangs(tmp_path, rank=1, seconds=1e9) as other:
        if stopped:
            other.send_signal(signal.SIGSTOP)
        process = hangs(tmp_path, peer=other.pid)
        said = process.communicate()[1]
        assert process.returncode == REQUEUE
        assert "did not answer" not in said
        assert len(list(tmp_path.glob("stacks/*/rank-*.txt"))) == 2
        assert other.wait() == REQUEUE


def test_a_rank_does_not_take_the_end_of_an_earlier_part_for_its_own(tmp_path: Path) -> None:
    """Under srun the first rank, which removes what is left, may come later: it waits for the lock."""
    (tmp_path / ".ending").write_text("stacks/before")
    with hangs(tmp_path, rank=1, seconds=1e9) as process:
        time.sleep(2)
        assert process.poll() is None
        (tmp_path / ".ending").unlink()
        (tmp_path / ".ending").write_text("stacks/now")
        assert process.wait() == REQUEUE
    assert [path.name for path in (tmp_path / "stacks").iterdir()] == ["now"]


def test_a_rank_that_does_not_answer_is_named_and_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        process = hangs(tmp_path, peer=other.pid)
        assert "(rank 1 did not answer)" in process.communicate()[1]
        assert other.wait() == -signal.SIGKILL


CHILD = """
import logging, subprocess, sys, time
from pathlib import Path
from vgen.training.watchdog import Watchdog
logging.basicConfig(format="%(message)s")
folder = Path(sys.argv[1])
with Watchdog(folder, 0, 1e9, 1e9) as watchdog:
    (folder / ".fault").write_text(sys.argv[2]) if len(sys.argv) > 2 else None
    watchdog.children = [subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])]
    time.sleep(60)
"""


def test_a_rank_that_failed_ends_the_one_that_started_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == REQUEUE
    assert "a rank of this run, process" in done.stderr
    assert "ended with code 7; run.resume=auto" in done.stderr


def test_a_fault_of_a_rank_is_the_fault_of_all_and_is_told_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), "2"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ""


def test_time_in_which_a_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    with hangs(tmp_path, seconds=6) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(12)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("speaks", [True, False])
def test_a_rank_waits_for_another_to_speak_and_not_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaks: bool
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("vgen.training.watchdog.time.sleep", waits.append)
    monkeypatch.setattr("vgen.training.watchdog.leave", sys.exit)
    watchdog = Watchdog(tmp_path, 1, step_seconds=120, phase_seconds=3600)
    if speaks:
        watchdog.say("rank 1 lost another rank")
    else:
        Watchdog(tmp_path, 0, step_seconds=120, phase_seconds=3600).announce()
    with pytest.raises(SystemExit):
        watchdog.follow()
    assert (sum(waits) < 1) == speaks
