"""The doctor as several ranks: they meet through the real store, in threads here; by srun and torchrun in
tests/integration."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vgen.app import cluster_checkups, meeting
from vgen.app.cluster_checkups import CLOCK_SECONDS
from vgen.app.meeting import Lost, Meeting, Place, first_node, place
from vgen.app.probes import Finding, State

SLURM = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURMD_NODENAME": "localhost",
    "SLURM_STEP_NODELIST": "localhost,b[1-3]",
}
FACTS = [
    {
        "node": f"n{rank // 2}",
        "local": rank % 2,
        "software": {"vgen": "1", "torch": "2.13", "driver": "570"},
        "trouble": "",
        "gpus": ["H200", "H200"],
        "apart": [],
    }
    for rank in range(4)
]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Meeting], Any]], list[Any]]:
    """Runs a function as rank 0 and as rank 1, on two nodes; gives what both return."""
    monkeypatch.setattr(cluster_checkups, "SEEN_SECONDS", 1.0)

    def run(act: Callable[[Meeting], Any]) -> list[Any]:
        port = free_port()
        places = [Place(rank, 2, 0, f"n{rank}", "127.0.0.1", port, rank == 0) for rank in (0, 1)]

        def one(at: Place) -> Any:
            met = Meeting(at)
            said = act(met)
            met.leave()
            return said

        with ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(one, places))

    return run


def facts_of(num: int = 2) -> list[dict[str, Any]]:
    return [FACTS[0] | {"node": f"n{rank}"} for rank in range(num)]


def test_what_one_says_all_hear(both: Callable[..., list[Any]]) -> None:
    assert both(lambda met: met.gather("word", f"of {met.at.rank}")) == [["of 0", "of 1"]] * 2


def test_a_clock_that_is_off_is_named(
    both: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def clocks(met: Meeting) -> Finding:
        return cluster_checkups._clocks(met, facts_of())

    assert both(clocks)[0].state is State.WORKS
    say = Meeting.say

    def late(met: Meeting, key: str, value: Any) -> None:
        say(met, key, value + 130 if key.startswith("time/") else value)

    monkeypatch.setattr(Meeting, "say", late)
    found = both(clocks)[0]
    assert found.state is State.CARE
    assert found.found == "n1 is +130.0 s from n0"
    assert "chrony" in found.remedy
    assert CLOCK_SECONDS < 130


def test_a_folder_that_is_not_shared_is_named(both: Callable[..., list[Any]], tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    apart = both(lambda met: cluster_checkups._shared(met, facts_of(), tmp_path / str(met.at.rank)))[0]
    assert (apart.state, apart.found) == (State.BROKEN, f"{tmp_path / '0'} is not the same on n1")
    shared = both(lambda met: cluster_checkups._shared(met, facts_of(), tmp_path))[0]
    assert shared.state is State.WORKS
    assert not list(tmp_path.glob("**/.vgen-doctor-*"))


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.3)
    at = Place(0, 3, 0, "n0", "127.0.0.1", free_port(), True)
    [found] = cluster_checkups.examine(at, tmp_path)
    assert found.state is State.BROKEN
    assert "of 3 ranks 1, 2 did not come to 127.0.0.1" in found.found
    assert "MASTER_ADDR in slurm/cluster.env" in found.remedy


def test_a_first_rank_that_cannot_be_reached_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(meeting, "PATIENCE_SECONDS", 0.3)
    at = Place(1, 2, 0, "n1", "127.0.0.1", free_port(), False)
    [found] = cluster_checkups.examine(at, tmp_path)
    assert found.state is State.BROKEN
    assert f"rank 1 on n1 at 127.0.0.1:{at.port}: " in found.found
    with pytest.raises(Lost):
        Meeting(at)


def test_other_software_on_a_node_is_broken() -> None:
    assert cluster_checkups._software(FACTS).state is State.WORKS
    odd = [*FACTS[:3], FACTS[3] | {"software": FACTS[3]["software"] | {"driver": "535"}}]
    found = cluster_checkups._software(odd)
    assert found.state is State.BROKEN
    assert "n1 and 0 more: vgen 1, torch 2.13, driver 535" in found.found


def test_gpus_are_counted_against_ranks_and_looked_at_in_pairs() -> None:
    [works] = cluster_checkups._gpus(FACTS)
    assert (works.state, works.found) == (State.WORKS, "4 x H200")
    [wrong] = cluster_checkups._gpus([FACTS[0] | {"gpus": ["H200"] * 8}])
    assert (wrong.state, wrong.found) == (State.BROKEN, "n0 1 ranks on 8")
    [lack] = cluster_checkups._gpus([fact | {"gpus": []} for fact in FACTS])
    assert (lack.state, lack.found) == (State.CARE, "a driver and no usable GPU on n0, n1")
    bare = FACTS[0] | {"gpus": [], "software": {"driver": None}}
    assert next(iter(cluster_checkups._gpus([bare]))).state is State.ABSENT
    _, peers = cluster_checkups._gpus([FACTS[0] | {"apart": [(0, 1), (1, 0)]}, *FACTS[1:]])
    assert (peers.state, peers.found) == (State.CARE, "no direct access: n0 0-1")


def test_the_place_is_slurms_or_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM", "MASTER", "TORCHELASTIC"))]:
        monkeypatch.delenv(name)
    assert place() is None
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    at = place()
    assert at is not None
    assert (at.rank, at.num, at.local, at.address, at.listens) == (3, 4, 1, "localhost", False)
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    assert place().port != at.port
    monkeypatch.setenv("MASTER_PORT", "999")
    assert place().port == 999
    assert first_node("gpu[03-07,09],b1") == "gpu03"


def test_one_process_in_a_job_of_several_nodes_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    [finding] = cluster_checkups.alone()
    assert "srun --ntasks-per-node=1 vgen doctor" in finding.remedy
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert cluster_checkups.alone() == []
