"""Where the processes of one job meet that ``srun`` or ``torchrun`` started: an address, a port, and a store
of words that all of them read."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vgen.training import ranks

PATIENCE_SECONDS = 30.0
"""For others to come, and for each of their answers."""
_PORTS = range(20_000, 30_000)
_FIRST = re.compile(r"([^,\[]+)(?:\[(\d+))?")


@dataclass(frozen=True, slots=True)
class Place:
    """One of ``num`` processes on ``node``; rank 0 of them listens at ``address``, ``port``.

    ``local`` is the number of the process on its node. Under torchrun the launcher listens.
    """

    rank: int
    num: int
    local: int
    node: str
    address: str
    port: int
    listens: bool


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Of this process; None where it is alone."""
    if ranks.by_torchrun():
        rank, num = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        local = int(environment["LOCAL_RANK"])
        return Place(rank, num, local, socket.gethostname(), address, port, False) if num > 1 else None
    if not ranks.by_srun():
        return None
    rank, num = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
    node = environment.get("SLURMD_NODENAME") or socket.gethostname()
    address = environment.get("MASTER_ADDR") or address_of(first_node(environment["SLURM_STEP_NODELIST"]))
    port = int(environment.get("MASTER_PORT") or _port(environment))
    return Place(rank, num, int(environment["SLURM_LOCALID"]), node, address, port, rank == 0)


def first_node(nodes: str) -> str:
    """``gpu[03-07,09],b1`` begins with ``gpu03``. Slurm's own programs are not in every container."""
    found = _FIRST.match(nodes)
    assert found is not None, nodes
    return found[1] + (found[2] or "")


def address_of(node: str) -> str:
    """The name where it resolves here, else the address that Slurm knows the node by."""
    try:
        socket.getaddrinfo(node, None)
    except OSError:
        return _known_to_slurm(node) or node
    return node


def _known_to_slurm(node: str) -> str | None:
    command = ["scontrol", "show", "node", node]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"NodeAddr=(\S+)", done.stdout)
    return found[1] if found else None


def _port(environment: Mapping[str, str]) -> int:
    """The same for all processes of a step; of two jobs on a node hardly ever the same."""
    job, step = int(environment["SLURM_JOB_ID"]), int(environment["SLURM_STEP_ID"])
    return _PORTS[(7919 * job + 104_729 * step) % len(_PORTS)]


class Lost(Exception):
    """Others that did not come, or that answer no more."""


class Meeting:
    """The store, seen from one process.

    Raises Lost where rank 0 cannot be reached, or where others do not come to it.
    """

    def __init__(self, at: Place) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what is lost is told here, in one sentence
        from torch.distributed import DistError, TCPStore

        self.at = at
        self._errors = (DistError, RuntimeError, OSError)
        patience = timedelta(seconds=PATIENCE_SECONDS)
        try:
            self.store = TCPStore(
                at.address, at.port, None, at.listens, timeout=patience, wait_for_workers=False
            )
        except self._errors as error:
            raise Lost(_why(error)) from error

    def gather(self, name: str, mine: Any) -> list[Any]:
        """What every process has to say, by rank, for all of them."""
        self.say(f"{name}/{self.at.rank}", mine)
        return [self.hear(f"{name}/{rank}") for rank in range(self.at.num)]

    def leave(self, absent: Sequence[int] = ()) -> None:
        """The last word of every process; rank 0, which holds the store, waits for the others'."""
        self.say(f"left/{self.at.rank}", True)
        if self.at.rank == 0:
            for rank in range(self.at.num):
                if rank not in absent:
                    self.hear(f"left/{rank}")

    def missing(self) -> list[int]:
        """Ranks that have not come when patience ends, for rank 0."""
        end = time.monotonic() + PATIENCE_SECONDS
        left = list(range(1, self.at.num))
        while left and time.monotonic() < end:
            left = [rank for rank in left if not self.store.check([f"here/{rank}"])]
            time.sleep(0.02)
        return left

    def say(self, key: str, value: Any) -> None:
        try:
            self.store.set(key, json.dumps(value))
        except self._errors as error:
            raise Lost(_why(error)) from error

    def hear(self, key: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """Waits for it."""
        try:
            self.store.wait([key], timedelta(seconds=seconds))
            return json.loads(self.store.get(key))
        except self._errors as error:
            raise Lost(f"no answer to {key} within {seconds:g} s") from error


def _why(error: BaseException) -> str:
    return (str(error).split("\n") or [type(error).__name__])[0].strip()
