"""Evaluation from clips to page, with samplers that need no model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.clip_store import truth
from vgen.app.evaluate import EvaluateRun, Source, evaluate
from vgen.methods._sampling import Sampling
from vgen.metrics.suite import Suite, Task

SUITE = Suite(iid=3, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def frozen(todo: list[Task]) -> np.ndarray:
    return np.repeat(perfect(todo)[:, :1], 4, 1)


def run(folder: Path, **settings) -> EvaluateRun:
    return EvaluateRun(**{"suite": SUITE, "out": str(folder), "selftest": 2, "batch_size": 2, **settings})


def source(sampler, name: str = "x") -> Source:
    return Source({"adapter": name}, lambda: sampler)


def quiet() -> Console:
    return Console(quiet=True)


def refuse() -> None:
    raise AssertionError("nothing should be drawn again")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(run(folder), quiet(), {"perfect": source(perfect), "frozen": source(frozen)}, lambda: lambda video: video)
    return folder


def test_truth_is_exact_and_beats_frozen(done: Path) -> None:
    found = json.loads((done / "summary.json").read_text())
    assert found["checkpoints"]["perfect"]["overall"]["exact"]["mean"] == 1
    assert found["checkpoints"]["frozen"]["overall"]["motion_moving"]["mean"] == 0
    assert found["differences"]["frozen - perfect"]["motion_moving"]["mean"] == -1
    assert found["ceiling"]["exact"] == 1
    assert found["valid"] is True
    assert found["floors"]["motion_moving"][0] <= 0.5
    assert set(found["checkpoints"]["perfect"]["buckets"]) == {"iid", "pair"}


def test_one_row_per_clip_and_checkpoint(done: Path) -> None:
    rows = [json.loads(line) for line in (done / "scores.jsonl").read_text().splitlines()]
    assert len({(r["checkpoint"], r["id"]) for r in rows}) == len(rows) == 10
    assert all(r["caption"] and r["bucket"] for r in rows)


def test_the_page_needs_nothing_but_itself(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert page.count("<video") == 15
    assert page.count('src="data:video/mp4;base64,') == 15
    assert "http" not in page.replace("data:video", "")


def test_scoring_again_draws_nothing_and_agrees(done: Path) -> None:
    before = (done / "scores.jsonl").read_bytes()
    never = Source({"adapter": "x"}, refuse)
    evaluate(run(done), quiet(), {"perfect": never, "frozen": never}, refuse)
    assert (done / "scores.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    drawn: list[str] = []

    def recording(todo: list[Task]) -> np.ndarray:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.extend(task.id for task in todo)
        return perfect(todo)

    with pytest.raises(KeyboardInterrupt):
        evaluate(run(tmp_path), quiet(), {"a": source(recording)})
    assert drawn == ["iid-0000", "iid-0001"]
    again: list[str] = []

    def rest(todo: list[Task]) -> np.ndarray:
        again.extend(task.id for task in todo)
        return perfect(todo)

    evaluate(run(tmp_path), quiet(), {"a": source(rest)})
    assert again == ["iid-0002", "pair-0000", "pair-0001"]


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"sampler": Sampling(guidance=2.0)}, "x", "sampler"),
        ({"suite": Suite(iid=5, num_frames=8)}, "x", "suite"),
        ({}, "y", "checkpoint perfect"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(done: Path, settings: dict, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"differs in {words}.*choose another out"):
        evaluate(run(done, **settings), quiet(), {"perfect": source(perfect, name)})


def test_n_replaces_the_counts_of_used_buckets_only(tmp_path: Path) -> None:
    assert [t.id for t in run(tmp_path, n=1).tasks()] == ["iid-0000", "pair-0000"]


def test_checkpoints_get_short_and_different_names() -> None:
    assert EvaluateRun(adapter=["untrained", "runs/a/", "b/a", "c/adapter.safetensors"]).names() == {
        "untrained": "untrained", "a": "runs/a/", "a-3": "b/a", "c": "c/adapter.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("adapter", [[], ["x", "x"], [1]])
def test_adapters_must_be_different_names(adapter: list) -> None:
    with pytest.raises(ValueError, match="adapter must name one checkpoint"):
        EvaluateRun(adapter=adapter)


def test_a_sampler_that_returns_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must return uint8 b f h w 3"):
        evaluate(run(tmp_path), quiet(), {"a": source(lambda todo: perfect(todo) / 255)})
