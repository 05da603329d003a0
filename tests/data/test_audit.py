"""The audit ledger: what is lost and what is repeated is named, half a line is nothing, and what a resumed
run trains on anew counts once."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vgen.data.audit import Audit, Ledger, Population, mark_resumed

IDS = ["a", "b", "c"]
STEPS = [["a", "c"], ["b"], ["c", "b"], ["a"], ["b", "a"], ["c"]]
"""Of rank 0 and rank 1 by turns: three steps of three samples, an epoch each."""


def batch(step: int, ids: list[str], epoch: int, rank: int = 0) -> dict[str, Any]:
    return {"step": step, "rank": rank, "samples": [[id_, epoch] for id_ in ids]}


def write(folder: Path, batches: list[dict[str, Any]]) -> Path:
    Population({"clips": IDS}, per_step=3).write(folder)
    for line in batches:
        ledger = Ledger(folder / f"rank-{line['rank']}.jsonl")
        ledger.add(line)
        ledger.close()
    return folder


def whole() -> list[dict[str, Any]]:
    return [batch(i // 2 + 1, ids, i // 2, i % 2) for i, ids in enumerate(STEPS)]


def test_a_ledger_in_order_is_one_sentence(tmp_path: Path) -> None:
    told = Audit.of(write(tmp_path, whole()), 3).told()
    assert told == "9 samples in 3 epochs, none lost, none repeated, up to step 3"
    assert Audit.of(tmp_path, 2).told() == "6 samples in 2 epochs, none lost, none repeated, up to step 2"


def test_an_epoch_that_has_begun_lacks_nothing(tmp_path: Path) -> None:
    Population({"clips": IDS}, per_step=2).write(tmp_path)
    ledger = Ledger(tmp_path / "rank-0.jsonl")
    for line in (batch(1, ["a", "b"], 0), {"step": 2, "rank": 0, "samples": [["c", 0], ["b", 1]]}):
        ledger.add(line)
    assert Audit.of(tmp_path, 2).told() == (
        "4 samples in 2 epochs (of the last 1 of 3), none lost, none repeated, up to step 2"
    )


@pytest.mark.parametrize(
    ("at", "ids", "says"),
    [
        (1, [], r"^up to step 3: 1 lost: b \(epoch 0\); step 1 has 2 of its 3 samples$"),
        (1, ["c"], r"^up to step 3: 1 lost: b \(epoch 0\); 1 repeated: c \(epoch 0\) 2 times$"),
        (5, ["b"], r"^up to step 3: 1 repeated: b \(epoch 2\) 2 times$"),
        (5, [], r"^up to step 3: step 3 has 2 of its 3 samples$"),
        (5, ["x"], r"^up to step 3: 1 not of the corpus: x \(epoch 2\)$"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, at: int, ids: list[str], says: str) -> None:
    batches = whole()
    batches[at]["samples"] = [[id_, at // 2] for id_ in ids]
    with pytest.raises(ValueError, match=says):
        Audit.of(write(tmp_path, batches), 3).told()


def test_what_comes_again_after_a_resumption_counts_once_on_fewer_ranks_too(tmp_path: Path) -> None:
    batches = whole()
    write(tmp_path, batches[:5])
    with (tmp_path / "rank-1.jsonl").open("a") as file:
        file.write('{"step": 3, "ra')  # killed
    mark_resumed(tmp_path, 1)
    assert (tmp_path / "rank-1.jsonl").read_text().splitlines()[-1] == '{"resumed": 1}'
    write(tmp_path, [batch(2, ["c", "a", "b"], 1), batch(3, IDS, 2)])
    assert Audit.of(tmp_path, 3).told().startswith("9 samples in 3 epochs, none lost, none repeated")


def test_half_a_line_at_the_end_is_nothing_and_another_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path, whole()) / "rank-0.jsonl"
    with path.open("a") as file:
        file.write('{"step": 4, "samples"')
    assert Audit.of(tmp_path, 3).told().startswith("9 samples")
    path.write_text(path.read_text().replace("step", "stop", 1))
    with pytest.raises(ValueError, match=r"line 1 of \S+rank-0.jsonl is none of an audit ledger"):
        Audit.of(tmp_path, 3)


def test_lines_that_a_full_disk_refuses_come_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = os.write, [True]

    def writing(file: int, payload: bytes) -> int:
        if full and full.pop():
            write(file, payload[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, payload)

    monkeypatch.setattr("vgen.data.audit.os.write", writing)
    ledger = Ledger(tmp_path / "rank-0.jsonl")
    with pytest.raises(OSError, match="No space"):
        ledger.add({"resumed": 1})
    ledger.add({"resumed": 2})
    assert (tmp_path / "rank-0.jsonl").read_text() == '{"resumed": 1}\n{"resumed": 2}\n'


def test_ids_are_what_samples_are_told_by(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"by their ids, and 2 samples have the id 'a'"):
        Population({"clips": ["a"], "stills": ["b", "a"]}, per_step=2)
    (tmp_path / "samples.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(
        ValueError, match=r"samples\.json is no list of what a run trains on \(format 'other'"
    ):
        Population.read(tmp_path)
