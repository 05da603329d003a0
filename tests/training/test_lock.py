"""The lock on a run's folder: exactly one owner, whoever comes, however the last one went."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vgen.training.lock import LOCK, Owner, RunLock

HOLD = """
import os, sys, time
from pathlib import Path
from vgen.training.lock import RunLock
folder, seconds, others = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[4])
while time.time() < float(sys.argv[3]): pass
try:
    with RunLock(folder):
        print("owner", flush=True)
        begun = time.monotonic()
        while time.monotonic() - begun < seconds and len(list(folder.parent.glob("refused-*"))) < others:
            time.sleep(0.05)
except ValueError as error:
    print(error, flush=True)
    (folder.parent / f"refused-{os.getpid()}").touch()
"""


def comer(folder: Path, seconds: float, at: float = 0, others: int = 99) -> subprocess.Popen:
    """Holds the lock for so long, or until so many others have been refused."""
    asked = [sys.executable, "-c", HOLD, str(folder), str(seconds), str(at), str(others)]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write_lock(folder: Path, owner: Owner) -> None:
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_bytes(owner.payload(0))


def elsewhere() -> Owner:
    return replace(Owner.of_this_process(), machine="another", host="another", pid=7, token="0123")


def test_the_second_comer_reads_who_holds_it_and_the_folder_is_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunLock(folder) as lock:
        with pytest.raises(ValueError, match=rf"belongs to process {os.getpid()} on .* since 20\d\d-"):
            RunLock(folder).__enter__()
        assert not lock.lost
        (folder / "config.yaml").touch()
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dead", [False, True])
def test_of_several_comers_at_one_moment_exactly_one_is_the_owner(tmp_path: Path, dead: bool) -> None:
    folder = tmp_path / "run"
    if dead:
        write_lock(folder, replace(Owner.of_this_process(), begun="1"))
    at = time.time() + 2
    comers = [comer(folder, 60, at, others=3) for _ in range(4)]
    said = [process.communicate()[0].strip() for process in comers]
    assert said.count("owner") == 1, said
    assert sum("belongs to process" in line for line in said) == 3


def test_the_lock_of_a_killed_process_is_taken_at_once_and_that_of_a_stopped_one_is_not(
    tmp_path: Path,
) -> None:
    with comer(tmp_path / "run", 60) as before:
        assert first_line(before) == "owner"
        before.send_signal(signal.SIGSTOP)
        with pytest.raises(ValueError, match=f"belongs to process {before.pid}"):
            RunLock(tmp_path / "run").__enter__()
        before.kill()
        before.wait()
    with RunLock(tmp_path / "run", stale_seconds=1e9):
        pass


def test_a_silent_owner_of_another_machine_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_lock(folder, elsewhere())
    with RunLock(folder, beat_seconds=0.1, stale_seconds=0.5) as lock:
        owner = Owner.read(folder / LOCK)
        assert owner is not None
        assert owner.token == lock.owner.token
    assert list(folder.iterdir()) == [], "no claim is left"


def test_a_beating_owner_of_another_machine_lives(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunLock(folder, beat_seconds=0.1) as lock:
        lock.owner = replace(lock.owner, machine="another")
        time.sleep(0.3)
        with pytest.raises(ValueError, match="belongs to process"):
            RunLock(folder, beat_seconds=1, stale_seconds=1e9).__enter__()


def test_an_owner_that_was_taken_for_dead_learns_it_and_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunLock(folder, beat_seconds=0.05) as lock:
        write_lock(folder, elsewhere())
        other = tmp_path / "other"
        other.write_bytes(elsewhere().payload(3))
        os.replace(other, folder / LOCK)
        for _ in range(100):
            if lock.lost:
                break
            time.sleep(0.05)
        assert lock.lost
    assert json.loads((folder / LOCK).read_bytes())["token"] == "0123"


def test_a_lock_that_cannot_be_read_is_waited_for_and_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"{torn")
    with RunLock(tmp_path, beat_seconds=0.1, stale_seconds=0.5):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ValueError, match=r"run is a file; choose another run\.name"):
        RunLock(tmp_path / "run").__enter__()
