"""Several processes draw into one folder; what is scored does not depend on how many they were, nor on the
size of their batches."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, Source, Stage, evaluate
from vgen.app.judging.clip_store import ClipStore, truth
from vgen.app.judging.shares import Share, device, share, wait_for
from vgen.app.judging.sources import sampler_of
from vgen.app.loading import open_checkpoint
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.metrics.suite import Suite, Task, tasks

SUITE = Suite(iid=3, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)
TINY = [
    "suite=smoke",
    "n=1",
    "suite.num_frames=2",
    "sampling.num_steps=1",
    "sampling.guidance=1",
    "batch_size=1",
    "selftest=0",
]


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def settle(folder: Path, **settings):
    run = EvaluateRun(suite=SUITE, out=str(folder), selftest=0, batch_size=2, **settings)
    return evaluate(run, Console(quiet=True), {"a": Source({"adapter": "x"}, lambda: perfect)})


def test_batches_are_dealt_out_whole(tmp_path: Path) -> None:
    """So that a batch holds the same clips whatever the number of processes."""
    drawn: dict[int, list[list[str]]] = {0: [], 1: []}
    for index, seen in drawn.items():

        def note(todo: list[Task], seen: list[list[str]] = seen) -> np.ndarray:
            seen.append([task.id for task in todo])
            return perfect(todo)

        list(ClipStore(tmp_path).fill("a", tasks(SUITE), note, 2, (index, 2)))
    assert drawn == {0: [["iid-0000", "iid-0001"], ["pair-0001"]], 1: [["iid-0002", "pair-0000"]]}


def test_two_shares_make_what_one_process_makes(tmp_path: Path) -> None:
    assert settle(tmp_path / "two", share="1/2") is None
    assert settle(tmp_path / "two", share="0/2") is not None
    settle(tmp_path / "one")
    assert (tmp_path / "two" / "scores.jsonl").read_bytes() == (
        tmp_path / "one" / "scores.jsonl"
    ).read_bytes()


def test_the_first_rank_waits_for_the_others(tmp_path: Path) -> None:
    other = threading.Timer(1.0, settle, (tmp_path,), {"share": "1/2"})
    other.start()
    found = settle(tmp_path, share="0/2", wait_minutes=1)
    other.join()
    assert found.summary["num_clips"] == 5


def test_the_first_rank_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"2 of 5 clips are missing in .* no rank has drawn anything for 0.01 minutes; run the same "
        r"command without share",
    ):
        settle(tmp_path, share="0/2", wait_minutes=0.01)
    assert settle(tmp_path).summary["num_clips"] == 5, "the remedy draws what is left"


def test_waiting_goes_on_while_clips_come() -> None:
    left = iter([3, 3, 2, 1, 0])
    assert wait_for(lambda: next(left), patience_seconds=0.8) == 0
    began = time.monotonic()
    assert wait_for(lambda: 1, patience_seconds=0.1) == 1
    assert time.monotonic() - began < 5


def test_a_rank_with_another_configuration_is_refused(tmp_path: Path) -> None:
    settle(tmp_path, share="1/2")
    with pytest.raises(ValueError, match="differs in sampler"):
        settle(tmp_path, share="0/2", sampling=SamplingOverrides(guidance=1.0))


def test_who_says_which_share_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert share() == Share(0, 1)
    assert device() is None
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    assert share() == Share(3, 4)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert share() == Share(1, 2)
    assert share("5/8") == Share(5, 8)
    with pytest.raises(ValueError, match="2 processes draw into one folder, which must be named"):
        EvaluateRun(adapter="untrained").folder()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert EvaluateRun(adapter="untrained").folder() == Path("outputs/evaluate-slurm77"), (
        "the same again after a requeue"
    )


@pytest.mark.parametrize("named", ["2/2", "x", "1", "-1/2"])
def test_a_share_is_a_part_of_a_whole(named: str) -> None:
    with pytest.raises(ValueError, match="share must be I/N"):
        share(named)


def test_a_clip_does_not_depend_on_its_batch() -> None:
    """Up to rounding: batches of another size add up in another order."""
    todo = tasks(Suite(iid=3, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=2))
    draw = sampler_of(open_checkpoint("untrained"), Sampling(num_steps=2, guidance=3.0), num_frames=2)
    together, alone = draw(todo), np.concatenate([draw([task]) for task in todo])
    apart = np.abs(together.astype(int) - alone)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.01


SUB_PIXEL = {"unexplained", "area_cv", "jerk", "mcres", "bgflick", "tc", "coherence", "pixel_agreement"}
"""Numbers that are measured on pixels and places; all others are facts, counted."""


def test_scores_do_not_depend_on_the_size_of_a_batch(tmp_path: Path) -> None:
    """The shipped model's clips, drawn alone and by fours, are read alike. Their pixels need not be: sums of
    floating point in another order move a few by 1/255, and with them the clip's own hash and, far behind the
    comma, what is measured on pixels."""
    suite = replace(SUITE, iid=4)
    draw = sampler_of(
        open_checkpoint("shipped"), Sampling(num_steps=4, guidance=3.0), num_frames=suite.num_frames
    )
    alone, together = (
        evaluate(
            EvaluateRun(suite=suite, out=str(tmp_path / str(size)), selftest=0, batch_size=size),
            Console(quiet=True),
            {"a": Source({"adapter": "shipped"}, lambda: draw)},
        )
        for size in (1, 4)
    )
    rows = [
        [json.loads(line) for line in (tmp_path / str(size) / "scores.jsonl").read_text().splitlines()]
        for size in (1, 4)
    ]
    assert len(rows[0]) == len(rows[1]) == 6
    assert 0 < np.mean([row["shape"] for row in rows[0]]) < 1, (
        "there is something to read and something wrong"
    )
    for one, other in zip(*rows, strict=True):
        assert set(one) == set(other)
        assert {k: one[k] for k in set(one) - SUB_PIXEL - {"clip"}} == {
            k: other[k] for k in set(one) - SUB_PIXEL - {"clip"}
        }
        for key in SUB_PIXEL & set(one):
            assert one[key] == pytest.approx(other[key], abs=1e-3), (one["id"], key)
    headlines = [
        {k: found.summary["checkpoints"]["a"]["overall"][k] for k in ("exact", "motion_moving")}
        for found in (alone, together)
    ]
    assert headlines[0] == headlines[1]


@pytest.mark.slow
def test_two_torchrun_ranks_equal_one(tmp_path: Path) -> None:
    """The shipped image model on two CPU processes; both read the configuration, one scores."""
    vgen = Path(sys.executable).with_name("vgen")
    alone = subprocess.run(
        [vgen, "evaluate", "adapter=untrained", *TINY, "out=one"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert alone.returncode == 0, alone.stderr
    ranks = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "vgen.app.evaluate",
    ]
    both = subprocess.run(
        [*ranks, "adapter=untrained", *TINY, "out=two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert both.returncode == 0, both.stderr
    assert (tmp_path / "two" / "scores.jsonl").read_bytes() == (
        tmp_path / "one" / "scores.jsonl"
    ).read_bytes()
    assert both.stdout.count("report/index.html") == 1
    drew = [
        json.loads(line)
        for i in (0, 1)
        for line in (tmp_path / "two" / "samples" / "untrained" / f"seconds-{i}.jsonl")
        .read_text()
        .splitlines()
    ]
    assert [d["clips"] for d in drew] == [1, 1, 1], "each rank drew its share"


def test_sampling_alone_leaves_scoring_to_later(tmp_path: Path) -> None:
    for index in (0, 1, 2):
        assert settle(tmp_path, share=f"{index}/3", stage=Stage.SAMPLE) is None
    assert settle(tmp_path, stage=Stage.SCORE).summary["num_clips"] == 5
