"""What `vgen doctor` looks at where several of it were started, one for each rank that would train: whether
they meet, what is different among their nodes, and what the network between them carries."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from vgen.app import probes
from vgen.app.checkups import installed
from vgen.app.meeting import PATIENCE_SECONDS, Lost, Meeting, Place
from vgen.app.probes import Finding, State

CLOCK_SECONDS = 2.0
"""How far apart clocks may be; locks and logs are compared across nodes."""
SEEN_SECONDS = 10.0
"""After so long a file that another node has written must be seen."""
PARCEL_BYTES = 2**24
_PORTS_REMEDY = (
    "open TCP ports between the nodes, or name rank 0's address in the network between them: "
    "MASTER_ADDR in slurm/cluster.env"
)
_NETWORK_REMEDY = "name the network between the nodes in slurm/cluster.env: GLOO_SOCKET_IFNAME=ib0"
_NCCL_REMEDY = "NCCL_SOCKET_IFNAME=ib0 in slurm/cluster.env; NCCL_DEBUG=INFO says which network it took"


def alone() -> list[Finding]:
    """In a job of several nodes one process sees one of them."""
    num = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if num == 1:
        return []
    remedy = "srun --ntasks-per-node=1 vgen doctor, or vgen submit doctor slurm.nodes=2"
    return [Finding("cluster", State.ABSENT, f"one process in a job of {num} nodes", remedy)]


def examine(at: Place, folder: Path) -> list[Finding]:
    """Together with all other ranks. Rank 0 gets every finding, another what only it can know."""
    try:
        meeting = Meeting(at)
        left = _come(meeting)
        findings = [] if left else [*_compared(meeting, folder), *_network(meeting)]
        meeting.leave(left)
        return _absent(at, left) if left else findings
    except ImportError as error:
        return [
            Finding("torch", State.BROKEN, f"on {at.node}: {error}", "make setup, where all nodes see it")
        ]
    except Lost as lost:
        where = f"rank {at.rank} on {at.node} at {at.address}:{at.port}"
        return [Finding("ranks", State.BROKEN, f"{where}: {lost}", _PORTS_REMEDY)]


def _come(meeting: Meeting) -> list[int]:
    """Ranks that do not come; the others wait for rank 0's word for it."""
    if meeting.at.rank > 0:
        meeting.say(f"here/{meeting.at.rank}", meeting.at.node)
        return meeting.hear("missing", 2 * PATIENCE_SECONDS)
    left = meeting.missing()
    meeting.say("missing", left)
    return left


def _absent(at: Place, left: Sequence[int]) -> list[Finding]:
    """Rank 0 says it, for all."""
    named = ", ".join(map(str, left[:8])) + (" and others" if len(left) > 8 else "")
    found = f"of {at.num} ranks {named} did not come to {at.address}:{at.port} in {PATIENCE_SECONDS:g} s"
    return [Finding("ranks", State.BROKEN, found, _PORTS_REMEDY)] if at.rank == 0 else []


def _compared(meeting: Meeting, folder: Path) -> list[Finding]:
    """What must be the same on all nodes, and what they must see of each other."""
    facts = meeting.gather("facts", _facts(meeting.at))
    nodes = list(dict.fromkeys(fact["node"] for fact in facts))
    clocks, shared = _clocks(meeting, facts), _shared(meeting, facts, folder)
    if meeting.at.rank:
        return []
    found = f"{len(facts)} on {len(nodes)} nodes ({nodes[0]} .. {nodes[-1]}), at {meeting.at.address}"
    ranks = Finding("ranks", State.WORKS, f"{found}:{meeting.at.port}")
    return [ranks, _software(facts), *_gpus(facts), clocks, shared]


def _facts(at: Place) -> dict[str, Any]:
    import torch

    num = torch.cuda.device_count()
    apart = [
        (i, j)
        for i in range(num * (at.local == 0))
        for j in range(num)
        if i != j and not torch.cuda.can_device_access_peer(i, j)
    ]
    driver = probes.driver()
    software = {"vgen": installed("vgen"), "torch": torch.__version__, "driver": driver.version}
    return {
        "node": at.node,
        "local": at.local,
        "software": software,
        "trouble": driver.trouble,
        "gpus": [torch.cuda.get_device_name(i) for i in range(num)],
        "apart": apart,
    }


def _software(facts: Sequence[dict[str, Any]]) -> Finding:
    kinds: dict[str, list[str]] = {}
    for fact in facts:
        told = ", ".join(f"{name} {version or 'none'}" for name, version in fact["software"].items())
        kinds.setdefault(told, []).append(fact["node"])
    if len(kinds) == 1:
        return Finding("software", State.WORKS, f"the same everywhere: {next(iter(kinds))}")
    found = "; ".join(f"{nodes[0]} and {len(nodes) - 1} more: {told}" for told, nodes in kinds.items())
    remedy = "use one environment that all nodes see (VGEN in slurm/cluster.env), and nodes of one kind"
    return Finding("software", State.BROKEN, found, remedy)


def _gpus(facts: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """As many ranks as GPUs on every node, of one kind, that reach each other."""
    ranks: dict[str, int] = {}
    for fact in facts:
        ranks[fact["node"]] = ranks.get(fact["node"], 0) + 1
    first = [fact for fact in facts if fact["local"] == 0]
    if not any(fact["gpus"] for fact in facts):
        driven = [fact["node"] for fact in first if fact["software"]["driver"] or fact["trouble"]]
        remedy = "ask for them: slurm.gpus=8, --gpus-per-node=8; 'vgen doctor' on the node says more"
        found = f"a driver and no usable GPU on {', '.join(driven)}" if driven else "none on any node"
        yield Finding("GPUs", State.CARE if driven else State.ABSENT, found, remedy)
        return
    wrong = [f"{f['node']} {ranks[f['node']]} ranks on {len(f['gpus'])}" for f in first if _odd(f, ranks)]
    kinds = {name for fact in first for name in fact["gpus"]}
    if wrong:
        yield Finding("GPUs", State.BROKEN, "; ".join(wrong), "one rank per GPU: --ntasks-per-node")
    elif len(kinds) > 1:
        yield Finding("GPUs", State.CARE, ", ".join(sorted(kinds)), "the slowest sets the pace")
    else:
        yield Finding("GPUs", State.WORKS, f"{len(facts)} x {kinds.pop()}")
    apart = [f"{fact['node']} {i}-{j}" for fact in first for i, j in fact["apart"] if i < j]
    if apart:
        remedy = "gradients go through host memory: slower, not wrong; nvidia-smi topo -m shows why"
        yield Finding("GPU peers", State.CARE, f"no direct access: {', '.join(apart[:4])}", remedy)


def _odd(fact: dict[str, Any], ranks: dict[str, int]) -> bool:
    return len(fact["gpus"]) != ranks[fact["node"]]


def _others(facts: Sequence[dict[str, Any]]) -> list[int]:
    """The first rank of each node but rank 0's."""
    return [rank for rank, fact in enumerate(facts) if fact["local"] == 0 and rank > 0]


def _clocks(meeting: Meeting, facts: Sequence[dict[str, Any]]) -> Finding:
    """How far each node's clock is from rank 0's; an answer is taken for the middle of its way."""
    apart: dict[str, float] = {}
    for rank in _others(facts):
        for turn in range(3):
            question, answer = f"what-time/{rank}/{turn}", f"time/{rank}/{turn}"
            if meeting.at.rank == rank:
                meeting.hear(question)
                meeting.say(answer, time.time())
            elif meeting.at.rank == 0:
                before = time.time()
                meeting.say(question, True)
                theirs = meeting.hear(answer)
                apart[facts[rank]["node"]] = theirs - (before + time.time()) / 2
    worst = max(apart, key=lambda node: abs(apart[node]), default=None)
    if worst is None:
        return Finding("clocks", State.WORKS, "one node")
    found = f"at most {abs(apart[worst]) * 1000:.1f} ms apart"
    if abs(apart[worst]) <= CLOCK_SECONDS:
        return Finding("clocks", State.WORKS, found)
    found = f"{worst} is {apart[worst]:+.1f} s from {facts[0]['node']}"
    return Finding("clocks", State.CARE, found, f"start chrony or ntpd on {worst}")


def _shared(meeting: Meeting, facts: Sequence[dict[str, Any]], folder: Path) -> Finding:
    """A file of rank 0 is seen on every node, and theirs by rank 0."""
    rank, others = meeting.at.rank, _others(facts)
    if not others:
        return Finding("files", State.WORKS, "one node")
    token = secrets.token_hex(8) if rank == 0 else ""
    if rank == 0:
        meeting.say("token", token)
    token = token or meeting.hear("token")
    own = folder / f".vgen-doctor-{token}-{rank}"
    if rank == 0 or rank in others:
        with suppress(OSError):
            own.write_text(token)
    meeting.gather("written", own.exists())
    wanted = others if rank == 0 else [0] if rank in others else []
    seconds = [_seen(folder / f".vgen-doctor-{token}-{one}", token) for one in wanted]
    all_seen = meeting.gather("seen", seconds)
    own.unlink(missing_ok=True)
    blind = [facts[one]["node"] for one in others if None in all_seen[one]]
    blind += [facts[one]["node"] for one, at in zip(others, all_seen[0], strict=True) if at is None]
    if blind:
        named = ", ".join(dict.fromkeys(blind))
        remedy = "run from, and set run.dir and data.path to, a file system that all nodes share"
        return Finding("files", State.BROKEN, f"{folder} is not the same on {named}", remedy)
    longest = max((at for times in all_seen for at in times), default=0.0)
    return Finding("files", State.WORKS, f"{folder} is shared; seen elsewhere after {longest:.1f} s")


def _seen(path: Path, token: str) -> float | None:
    """Seconds until the file is there with its words; None where it does not come."""
    begun = time.monotonic()
    while time.monotonic() - begun < SEEN_SECONDS:
        with suppress(OSError):
            os.listdir(path.parent)  # a network file system remembers for a while what was not there
            if path.read_text() == token:
                return time.monotonic() - begun
        time.sleep(0.1)
    return None


def _network(meeting: Meeting) -> list[Finding]:
    """A parcel is summed over all ranks, as gradients are."""
    import torch
    from torch.distributed import destroy_process_group

    findings = [_carried(meeting, "gloo", torch.device("cpu"), _NETWORK_REMEDY)]
    if all(meeting.gather("gpu", torch.cuda.device_count() > meeting.at.local)):
        device = torch.device("cuda", meeting.at.local)
        findings.append(_carried(meeting, "nccl", device, _NCCL_REMEDY))
    with suppress(RuntimeError, AssertionError):
        destroy_process_group()
    return findings if meeting.at.rank == 0 else [one for one in findings if one.state is State.BROKEN]


def _carried(meeting: Meeting, backend: str, device: Any, remedy: str) -> Finding:
    import torch
    from torch import distributed as dist

    at, patience = meeting.at, timedelta(seconds=PATIENCE_SECONDS)
    parcel = torch.ones(PARCEL_BYTES // 4, device=device)
    try:
        store = dist.PrefixStore(backend, meeting.store)
        if dist.is_initialized():
            group = dist.new_group(backend=backend, timeout=patience)
        else:
            dist.init_process_group(backend, store=store, rank=at.rank, world_size=at.num, timeout=patience)
            group = None
        begun = time.monotonic()
        for _ in range(2):  # the first one connects
            begun = time.monotonic()
            dist.all_reduce(parcel, group=group, async_op=True).wait(patience)
            total = float(parcel[0])
            parcel.fill_(1.0)
    except (RuntimeError, OSError) as error:
        return Finding(backend, State.BROKEN, str(error).split("\n")[0], remedy)
    seconds = time.monotonic() - begun
    if total != at.num:
        return Finding(backend, State.BROKEN, f"ones of {at.num} ranks sum to {total:g}", remedy)
    told = f"{PARCEL_BYTES >> 20} MiB of {at.num} ranks summed in {seconds * 1000:.0f} ms"
    return Finding(backend, State.WORKS, told)
