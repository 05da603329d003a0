"""Faults on a real Slurm of two nodes and a spare one: a training by ZeRO-2 ends by itself, with the weights
and the samples of one that nothing befell.

``make test-cluster FAULTS=50 SEED=7`` adds as many jobs with random faults.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from slurm_lab import NEEDS_SLURM, ROOT, Slurm

from vgen.app.checkpoints import audited

pytestmark = [*NEEDS_SLURM, pytest.mark.deepspeed]

STEPS, SAVE_EVERY, VALIDATE_EVERY = 8, 2, 4
PATIENCE_SECONDS = 420
"""A job with its restarts on two busy cores."""
RANK_SECONDS, NODE_SECONDS = 25, 60
"""What a rank's death and a node's are to cost until training goes on, on a quiet machine."""
TENSORS = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors")

NUM_RANDOM = int(os.environ.get("VGEN_NUM_FAULTS") or 0)
SEED = os.environ.get("VGEN_FAULT_SEED") or "0"


@dataclass(frozen=True)
class Inside:
    """A fault of a rank's own, at a place of training: ``faulty_vgen.Fault``."""

    where: str
    rank: int
    step: int
    act: str = "kill"

    def __str__(self) -> str:
        return f"{self.act}-{self.where}-rank{self.rank}-step{self.step}".replace(" ", "-")


@dataclass(frozen=True)
class Outside:
    """What is done to the job or a node, once ``step`` steps are done."""

    what: str
    step: int

    def __str__(self) -> str:
        return f"{self.what}-step{self.step}".replace(" ", "-")


SHORT = [Inside("backward", 1, 3), Inside("save", 0, 4)]
TABLE = [
    Inside("forward", 0, 3),
    Inside("forward", 1, 5),
    Inside("backward", 0, 1),
    Inside("step", 0, 6),
    Inside("step", 1, 2),
    Inside("save", 1, 6),
    Inside("renamed", 0, 4),
    Inside("validation", 1, 4),
    Inside("opening", 1, 0),
    Inside("result", 0, 0),
    Inside("backward", 0, 5, "crash"),
    Inside("forward", 1, 4, "stop"),
    Inside("forward", 0, 5, "flip"),
    Inside("forward", 0, 7, "tear"),
    Inside("save", 0, 4, "full disk"),
    Outside("scancel usr1", 3),
    Outside("requeue", 3),
    Outside("node lost", 3),
    Outside("daemon lost", 3),
    Outside("time limit", 0),
]


@dataclass
class Trained:
    """A run that has ended, with what its ranks noted of it."""

    run: Path
    trace: Path
    said: str = ""

    def sums(self) -> dict[str, str]:
        """Of weights, averages and moments after the last step."""
        manifest = json.loads((self.run / f"checkpoints/step-{STEPS:07d}/manifest.json").read_text())
        return {name: manifest["files"][name]["sha256"] for name in TENSORS}

    def lines(self, rank: int) -> list[dict[str, Any]]:
        path = self.trace / f"rank-{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def keys(self) -> dict[tuple[int, int], list]:
        """The samples by rank and step, of the last time that the step was made."""
        return {(rank, line["step"]): line["keys"] for rank in (0, 1) for line in self.lines(rank)}

    def num_done(self) -> int:
        return max((line["step"] for line in self.lines(0)), default=0)

    def lost_seconds(self, since: float) -> float:
        """Until both ranks train again."""
        after = [[line["time"] for line in self.lines(rank) if line["time"] > since] for rank in (0, 1)]
        return max(min(times, default=float("inf")) for times in after) - since


@dataclass
class Ground:
    """Where jobs are started and broken."""

    slurm: Slurm
    submit: Callable[..., str]
    arguments: list[str]
    folder: Path
    seen: list[tuple[float, str]] = field(default_factory=list)

    def job(self, trained: Trained, faults: list[Inside], *options: str) -> str:
        log = trained.trace / "job.log"
        vgen = self.folder / "vgen"
        vgen.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/integration/faulty_vgen.py "$@"\n')
        vgen.chmod(0o755)
        return self.submit(
            "train.sbatch",
            *self.arguments,
            f"run.dir={trained.run.parent}",
            f"run.name={trained.run.name}",
            options=(f"--output={log}", *options),
            VGEN=str(vgen),
            VGEN_PYTHON=sys.executable,
            VGEN_TRACE=str(trained.trace),
            VGEN_FAULTS=json.dumps([asdict(fault) for fault in faults]),
        )

    def trained(self, name: str) -> Trained:
        trace = self.folder / f"trace-{name}"
        trace.mkdir()
        return Trained(self.folder / name, trace)

    def ended(self, trained: Trained, job: str) -> str:
        state = self.slurm.wait(job, PATIENCE_SECONDS)
        trained.said = (trained.trace / "job.log").read_text()
        return state

    def whole(self, trained: Trained, job: str) -> None:
        state = self.ended(trained, job)
        assert state == "COMPLETED", f"{state}\n{trained.said}\n{self.slurm.logs()}"


@pytest.fixture
def ground(
    slurm: Slurm, submit: Callable[..., str], overrides: list[str], toy_shards: Path, tmp_path: Path
) -> Ground:
    quick = [
        "trainer=deepspeed_zero2",
        "data.batch_size=1",
        "data.window.num_frames=1",
        "trainer.preflight=false",
        "trainer.hang_seconds=10",
        "trainer.phase_seconds=90",  # a rank may stop in a step behind a save or an evaluation
        f"trainer.max_steps={STEPS}",
        f"trainer.checkpoint_every_steps={SAVE_EVERY}",
        f"trainer.val_every_steps={VALIDATE_EVERY}",
    ]
    return Ground(slurm, submit, [*overrides, f"data.path={toy_shards}", *quick, "data.audit=true"], tmp_path)


_WHOLE: list[Trained] = []


@pytest.fixture
def whole(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that nothing befalls, once for all tests; each sample of the corpus is in it once."""
    if not _WHOLE:
        there = Ground(ground.slurm, ground.submit, ground.arguments, tmp_path_factory.mktemp("whole"))
        done = there.trained("whole")
        there.whole(done, there.job(done, []))
        drawn = [sample for keys in done.keys().values() for sample, _ in keys]
        assert len(drawn) == len(set(drawn)) == 2 * STEPS
        _WHOLE.append(done)
    return _WHOLE[0]


def same(trained: Trained, whole: Trained) -> None:
    assert trained.keys() == whole.keys(), "a sample was lost, repeated or came in another order"
    assert trained.sums() == whole.sums(), trained.said
    assert "none lost, none repeated" in audited(trained.run / "checkpoints")
    assert not list(ROOT.glob(".requeue-*")), "a flag was left"


def until_step(ground: Ground, trained: Trained, step: int) -> None:
    ground.slurm._until("steps are taken", lambda: trained.num_done() >= step, 240)


def told(name: object, what: str, seconds: float, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    """The figure, on the terminal: a busy machine takes longer."""
    with capsys.disabled():
        print(
            f"\n{name}: {seconds:.1f} s from {what} to training again ({most} is the aim on a quiet machine)"
        )
    assert math.isfinite(seconds), "training never went on"


def struck(trained: Trained, number: int = 0) -> float:
    """When a fault came to pass."""
    return float((trained.trace / f"fault-{number}").read_text().split()[0])


def befallen(ground: Ground, faults: list[Inside], name: str) -> Trained:
    trained = ground.trained(name)
    ground.whole(trained, ground.job(trained, faults))
    missing = [str(fault) for i, fault in enumerate(faults) if not (trained.trace / f"fault-{i}").exists()]
    assert not missing, f"never came to pass: {missing}\n{trained.said}"
    return trained


@pytest.mark.parametrize(
    "fault",
    [*SHORT, *(pytest.param(one, marks=pytest.mark.cluster) for one in TABLE if isinstance(one, Inside))],
    ids=str,
)
def test_a_fault_of_a_rank_changes_nothing(
    ground: Ground, whole: Trained, capsys: pytest.CaptureFixture[str], fault: Inside
) -> None:
    trained = befallen(ground, [fault], "run")
    same(trained, whole)
    if fault.act in ("kill", "crash") and fault.where not in ("result", "opening"):
        assert "starting all ranks again here (restart 1)" in trained.said
        told(fault, "a rank's death", trained.lost_seconds(struck(trained)), RANK_SECONDS, capsys)
    if fault.act in ("flip", "tear"):
        assert "step-" in trained.said
        assert (
            list((trained.run / "checkpoints").glob("*.unsound")) or "is not what was written" in trained.said
        )


@pytest.mark.cluster
def test_a_signal_and_a_requeue_change_nothing(ground: Ground, whole: Trained) -> None:
    trained = ground.trained("run")
    job = ground.job(trained, [])
    until_step(ground, trained, 2)
    ground.slurm.ask("scancel", "--batch", "--signal=USR1", job)
    ground.slurm._until("the job waits again", lambda: ground.slurm.state(job) == "PENDING", 120)
    until_step(ground, trained, 5)
    ground.slurm.ask("scontrol", "requeue", job)
    ground.whole(trained, job)
    assert "telling all ranks to save" in trained.said
    same(trained, whole)


@pytest.mark.cluster
@pytest.mark.parametrize("what", ["node lost", "daemon lost"])
def test_a_lost_node_is_replaced(
    ground: Ground, whole: Trained, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """The daemon with its tasks, or the daemon alone: then Slurm ends a training that went on."""
    trained = ground.trained("run")
    job = ground.job(trained, [])
    until_step(ground, trained, 3)
    since = time.time()
    try:
        (ground.slurm.lose if what == "node lost" else ground.slurm.kill_daemon)("nb")
        ground.whole(trained, job)
    finally:
        ground.slurm.restore()
    same(trained, whole)
    if what == "node lost":
        told(what, "a node's loss", trained.lost_seconds(since), NODE_SECONDS, capsys)


@pytest.mark.cluster
def test_the_time_limit_without_a_warning_loses_nothing_that_was_saved(
    ground: Ground, whole: Trained
) -> None:
    """TERM, then KILL: the job has ended, and the same command in a new one goes on."""
    trained = ground.trained("run")
    job = ground.job(trained, [Inside("forward", 0, 0, "crawl")], "--time=1", "--signal=B:CONT@1")
    state = ground.ended(trained, job)
    assert (state, "stopped at step" in trained.said) == ("TIMEOUT", True), trained.said
    ground.whole(trained, ground.job(trained, []))
    same(trained, whole)


def drawn(number: int) -> list[Inside]:
    """One to three faults of ranks, by the seed."""
    chance = random.Random(f"{SEED}-{number}")
    faults: dict[int, Inside] = {}
    for _ in range(chance.randint(1, 3)):
        where = chance.choice(["forward", "backward", "step", "save", "renamed", "validation"])
        step = {"save": chance.choice([2, 4, 6]), "renamed": chance.choice([2, 4, 6]), "validation": 4}
        at = step.get(where, chance.randint(1, STEPS - 1))
        rank = 0 if where == "renamed" else chance.randint(0, 1)
        acts = ["kill", "kill", "crash", "stop"]
        if where == "forward" and rank == 0 and at > SAVE_EVERY:
            acts += ["flip", "tear"]
        faults.setdefault(at, Inside(where, rank, at, chance.choice(acts)))
    return [faults[at] for at in sorted(faults)]


@pytest.mark.cluster
@pytest.mark.parametrize("number", range(NUM_RANDOM))
def test_random_faults_change_nothing(
    ground: Ground, whole: Trained, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    faults = drawn(number)
    with capsys.disabled():
        print(f"\nseed {SEED}, job {number}: {', '.join(map(str, faults))}")
    same(befallen(ground, faults, "run"), whole)
