"""Evaluation from clips to page, with samplers that need no model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, Source, Stage, evaluate
from vgen.app.judging import scorer
from vgen.app.judging.clip_store import ClipStore, fingerprint, truth
from vgen.app.judging.leaderboard import board
from vgen.app.judging.results import Result, headline_table, load
from vgen.app.judging.scorer import score_all, score_one
from vgen.app.judging.sources import sampler_of
from vgen.app.loading import UNTRAINED, open_checkpoint
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.metrics.kinds.diversity import AskedDiversity, one_clip
from vgen.metrics.suite import Kind, Suite, Task
from vgen.metrics.suite import tasks as suite_tasks

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
    evaluate(
        run(folder),
        quiet(),
        {"perfect": source(perfect), "frozen": source(frozen)},
        lambda: lambda video: video,
    )
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


def test_two_things_are_told_from_one(done: Path) -> None:
    """A mean over both would hide how much harder two are; captions can't be counted by their words ("down
    and left")."""
    found, tasks = (
        json.loads((done / "summary.json").read_text()),
        {task.id: task for task in suite_tasks(SUITE)},
    )
    rows = [json.loads(line) for line in (done / "scores.jsonl").read_text().splitlines()]
    for name in ("perfect", "frozen"):
        of = found["checkpoints"][name]["things"]
        assert list(of) == ["1 thing", "2 things"]
        for num, key in enumerate(of, 1):
            tc = [
                row["tc"]
                for row in rows
                if row["checkpoint"] == name and len(tasks[row["id"]].scene.things) == num
            ]
            assert of[key]["tc"]["num"] == len(tc)
            assert of[key]["tc"]["mean"] == pytest.approx(np.mean(tc))
    page = (done / "report" / "index.html").read_text()
    assert '<td class="l">1 thing</td>' in page
    assert '<td class="l">2 things</td>' in page


def test_tricks_that_act_on_time_say_nothing_of_stills(tmp_path: Path) -> None:
    """Frozen, shuffled, reversed and averaged, a clip of one frame is the truth: as a trick that must not pay
    it would earn everything."""
    stills = replace(SUITE, num_frames=1)
    found = evaluate(run(tmp_path, suite=stills, selftest=5), quiet(), {"perfect": source(perfect)}).summary
    assert found["left_out"] == ["frozen", "shuffled", "reversed", "mean"]
    assert set(found["self_test"]) == {
        "truth",
        "blur 1 px",
        "noise .05",
        "jpeg q75",
        "jpeg q30",
        "H.264",
        "blank",
        "other clip",
    }
    earned, trick = found["floors"]["exact_image"]
    assert earned < 0.5
    assert trick in ("blank", "other clip")
    out = StringIO()
    Console(file=out, width=120).print(headline_table(found))
    assert "tricks that act on time are left out (frozen, shuffled, reversed, mean)" in " ".join(
        out.getvalue().split()
    )
    page = (tmp_path / "report" / "index.html").read_text()
    assert "A still has no order in time: frozen, shuffled, reversed, mean would be the truth itself" in page


def test_clips_are_tried_with_every_trick(done: Path) -> None:
    found = json.loads((done / "summary.json").read_text())
    assert found["left_out"] == []
    assert {"frozen", "shuffled", "reversed", "mean", "blank", "other clip"} < set(found["self_test"])
    assert "A still has no order" not in (done / "report" / "index.html").read_text()


def test_a_steady_ground_says_how_much_of_flicker_is_the_codec(done: Path) -> None:
    """The truth's ground does not change; H.264 makes it, and that is shown beside what a reader might take
    for flicker."""
    found = json.loads((done / "summary.json").read_text())
    assert found["self_test"]["truth"]["bgflick"] == 0
    assert (
        0
        < found["flicker_floor"]["H.264"]
        == found["self_test"]["H.264"]["bgflick"]
        < 1
        < found["self_test"]["flicker 8 %"]["bgflick"]
    )
    assert found["self_test"]["H.264"]["exact"] >= 0.8
    assert (
        f"flickers by {found['flicker_floor']['H.264']:.2f}/255 once it has been H.264"
        in (done / "report" / "index.html").read_text()
    )


def test_a_second_reader_audits_the_truth_and_each_checkpoint(tmp_path: Path) -> None:
    """What jumps about divides the two: it is listed by clip, in summary and page."""

    def shuffled(todo: list[Task]) -> np.ndarray:
        return perfect(todo)[:, [2, 0, 5, 1, 7, 3, 6, 4]]

    suite = replace(SUITE, num_frames=8, stride_ticks=2)
    found = evaluate(
        run(tmp_path, suite=suite, selftest=5),
        quiet(),
        {"perfect": source(perfect), "shuffled": source(shuffled)},
    ).summary
    assert [found["audit"][name]["share"]["mean"] for name in ("truth", "perfect")] == [1, 1]
    assert found["audit"]["truth"]["apart"] == {}
    apart = found["audit"]["shuffled"]["apart"]
    assert found["audit"]["shuffled"]["share"]["mean"] == pytest.approx(1 - len(apart) / 5)
    assert apart
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Does a second reader agree?" in page
    assert all(id in page for id in apart)


def test_numbers_of_many_clips_stand_beside_the_headlines(tmp_path: Path) -> None:
    """One right clip over and over is exact clip by clip; table, report and leaderboard say that it is one
    clip."""
    suite = replace(SUITE, iid=16, pair=0, kind=Kind.DIVERSITY, diversity=AskedDiversity(seeds_per_prompt=8))

    def again(todo: list[Task]) -> np.ndarray:
        return np.stack([one_clip(task, 64) for task in todo])

    wanted = run(tmp_path, suite=suite, selftest=8)
    found = evaluate(
        wanted, quiet(), {"varied": source(perfect), "again": source(again)}, lambda: lambda video: video
    ).summary
    assert found["checkpoints"]["again"]["overall"]["exact"]["mean"] == 1
    varied, same = (found["checkpoints"][name]["set"] for name in ("varied", "again"))
    for key, right in found["set_headlines"].items():
        assert abs(same[key]["mean"] - right) > abs(varied[key]["mean"] - right), key
        assert varied[key]["low"] <= varied[key]["mean"] <= varied[key]["high"], key
    assert found["set_headlines"] == {"energy": 0, "vendi_ratio": 1, "dup": 0, "set_energy": 0}
    assert varied["set_energy"]["low"] < 0 < min(varied["set_energy"]["high"], same["set_energy"]["low"])
    assert found["floors"]["dup"][0] < 0.5 < found["self_test"]["one clip"]["exact"]
    assert found["ceiling"]["dup"] == 0
    out = StringIO()
    Console(file=out, width=160).print(headline_table(found))
    assert re.search(r"again.*1\.00 \[0?\.\d\d, 1\.00\]", out.getvalue())
    assert re.search(r"the world .* 0 .* 1 .* 0 .* 0 ", out.getvalue())
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<h3>Set distance</h3>") == 1
    [apart] = found["differences"].values()
    assert list(apart) == [*found["headlines"], *found["set_headlines"]]
    assert apart["dup"]["mean"] == 1
    assert apart["dup"]["low"] < 0, "of so few prompts that all of them agreeing proves nothing"
    assert [row["dup"]["mean"] for row in board(load(tmp_path))["rows"]] == [0, 1]


def test_the_corpus_says_whether_clips_are_recalled(tmp_path: Path) -> None:
    """And what is no corpus, or says nothing to this suite, is refused before a clip is drawn."""
    suite = replace(SUITE, iid=8, pair=0, kind=Kind.DIVERSITY, diversity=AskedDiversity(seeds_per_prompt=4))
    prepare(Prepare(data=ToyboxSource(num_clips=40), out=str(tmp_path / "corpus")))
    ours = run(tmp_path / "run", suite=suite, corpus=str(tmp_path / "corpus"), selftest=8)
    found = evaluate(ours, quiet(), {"perfect": source(perfect)}, lambda: lambda clip: clip).summary
    assert found["corpus"] == {
        "folder": str(tmp_path / "corpus"),
        "scenes": 40,
        "sha256": found["corpus"]["sha256"],
    }
    assert len(found["corpus"]["sha256"]) == 64
    assert found["set_headlines"]["mem"] == 1
    assert found["checkpoints"]["perfect"]["set"]["mem"]["mean"] > 0.5
    assert found["ceiling"]["mem"] == found["checkpoints"]["perfect"]["set"]["mem"]["mean"], (
        "the truth, through a decoder that keeps all"
    )
    assert found["floors"]["mem"][1] == "training clips"
    assert found["floors"]["mem"][0] < 0.2
    rows = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert all(row["taught"] > 0 < row["taught_world"] for row in rows)
    for corpus, kind, words in (
        ("nowhere", Kind.DIVERSITY, "is no folder"),
        (tmp_path / "corpus", Kind.TEXT, "of kind text does not ask"),
    ):
        wrong = run(tmp_path / "wrong", suite=replace(suite, kind=kind), corpus=str(corpus))
        with pytest.raises(ValueError, match=words):
            evaluate(wrong, quiet(), {"x": Source({}, refuse)})


def test_one_row_per_clip_and_checkpoint(done: Path) -> None:
    rows = [json.loads(line) for line in (done / "scores.jsonl").read_text().splitlines()]
    assert len({(r["checkpoint"], r["id"]) for r in rows}) == len(rows) == 10
    assert all(r["caption"] and r["bucket"] for r in rows)


def test_rows_carry_the_fingerprint_of_their_pixels(done: Path) -> None:
    rows = {
        (r["checkpoint"], r["id"]): r["clip"]
        for r in map(json.loads, (done / "scores.jsonl").read_text().splitlines())
    }
    task = run(done).tasks()[0]
    assert rows["perfect", task.id] == fingerprint(truth(task, 64)) != rows["frozen", task.id]


def test_the_summary_says_what_was_compared_and_what_it_cost(done: Path) -> None:
    found = json.loads((done / "summary.json").read_text())
    assert found["rule"] == SUITE.rule()
    assert found["suite"]["iid"] == 3
    assert found["size_px"] == 64
    cost = found["checkpoints"]["perfect"]["cost"]
    assert cost["unet_calls"] == 50, "25 steps, with and without the caption"
    assert cost["seconds_per_clip"] > 0
    gap = found["checkpoints"]["frozen"]["gap"]
    assert gap["low"] <= gap["mean"] <= gap["high"]


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


def test_an_interrupted_scoring_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was scored before the kill is taken as it stands; one whose clip has changed since is
    not."""
    evaluate(run(tmp_path, stage=Stage.SAMPLE), quiet(), {"a": source(perfect)})
    store, todo, scored = ClipStore(tmp_path), run(tmp_path).tasks(), []

    def stop_after_three() -> None:
        scored.append(1)
        if len(scored) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_all(store, ["a"], todo, stop_after_three)
    journal = tmp_path / "scoring.jsonl"
    journal.write_text(
        journal.read_text().replace('"exact": 1.0', '"exact": 0.25') + '{"checkpoint": "a", "id": "pai'
    )
    store.write("a", todo[1], frozen([todo[1]])[0])
    assert [row.numbers["exact"] for row in score_all(store, ["a"], todo)] == [
        0.25,
        score_one(("a", todo[1], store.path("a", todo[1]), None)).numbers["exact"],
        0.25,
        1,
        1,
    ]
    assert not journal.exists(), "a finished evaluation is scored anew"


def test_worker_processes_score_what_one_process_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "WORTH_A_PROCESS", 2)
    evaluate(run(tmp_path, stage=Stage.SAMPLE), quiet(), {"a": source(perfect)})
    alone = score_all(ClipStore(tmp_path), ["a"], run(tmp_path).tasks())
    assert score_all(ClipStore(tmp_path), ["a"], run(tmp_path).tasks(), num_processes=2) == alone
    ClipStore(tmp_path).write("a", alone[1].task, perfect([alone[1].task])[0][:2])
    with pytest.raises(ValueError, match="clip iid-0001 has 2 frames where its task asks for 4"):
        score_all(ClipStore(tmp_path), ["a"], run(tmp_path).tasks(), num_processes=2)


def test_drawing_and_scoring_are_separate(tmp_path: Path) -> None:
    assert evaluate(run(tmp_path, stage=Stage.SAMPLE, n=1), quiet(), {"a": source(perfect)}) is None
    assert not (tmp_path / "scores.jsonl").exists()
    with pytest.raises(
        ValueError,
        match=r"3 of 5 clips are missing in .* nothing is drawn while stage=score; run the same command",
    ):
        evaluate(run(tmp_path, stage=Stage.SCORE), quiet(), {"a": source(refuse)})
    found = evaluate(run(tmp_path, stage=Stage.SCORE, n=1), quiet(), {"a": Source({"adapter": "x"}, refuse)})
    assert found.summary["checkpoints"]["a"]["overall"]["exact"]["mean"] == 1


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"sampling": SamplingOverrides(guidance=2.0)}, "x", "sampler"),
        ({"suite": Suite(iid=5, num_frames=8)}, "x", "suite"),
        ({}, "y", "checkpoint perfect"),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(done: Path, settings: dict, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"differs in {words}.*choose another out"):
        evaluate(run(done, **settings), quiet(), {"perfect": source(perfect, name)})


def test_settings_that_are_refused_in_drawing_leave_the_folder_free(tmp_path: Path) -> None:
    """Too many steps are noticed by the solver, long after the command has begun; the corrected one may have
    the same folder."""
    draw = sampler_of(open_checkpoint(UNTRAINED), Sampling(num_steps=2000), SUITE.num_frames)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"num_steps must lie in 1..1000, got 2000"):
        evaluate(run(out, sampling=SamplingOverrides(num_steps=2000)), quiet(), {"x": source(draw)})
    assert not out.exists()
    assert evaluate(run(out), quiet(), {"x": source(perfect)}).summary["num_clips"] == 5


def test_of_two_evaluations_that_start_at_once_one_has_the_folder(tmp_path: Path) -> None:
    def late(todo: list[Task]) -> np.ndarray:
        if not (tmp_path / "manifest.json").exists():
            evaluate(run(tmp_path, stage=Stage.SAMPLE, share="1/2"), quiet(), {"x": source(perfect)})
        return frozen(todo)

    with pytest.raises(ValueError, match="differs in sampler"):
        evaluate(
            run(tmp_path, sampling=SamplingOverrides(guidance=2.0), share="0/2"), quiet(), {"x": source(late)}
        )
    store, todo = ClipStore(tmp_path), run(tmp_path).tasks()
    assert [task.id for task in store.missing("x", todo)] == ["iid-0000", "iid-0001", "pair-0001"], (
        "none of the other's clips"
    )
    assert store.manifest()["sampler"]["guidance"] == run(tmp_path).drawn().guidance


def test_clips_that_are_not_square_are_refused_before_one_is_drawn() -> None:
    with pytest.raises(
        ValueError,
        match=r"are square, got sampling.width_px=32 and sampling.height_px=64; give both the same",
    ):
        sampler_of(open_checkpoint(UNTRAINED), Sampling(width_px=32), num_frames=2)


def test_n_replaces_the_counts_of_used_buckets_only(tmp_path: Path) -> None:
    assert [t.id for t in run(tmp_path, n=1).tasks()] == ["iid-0000", "pair-0000"]


def test_checkpoints_get_short_and_different_names() -> None:
    assert EvaluateRun(adapter=["untrained", "runs/a/", "b/a", "c/adapter.safetensors"]).names() == {
        "untrained": "untrained",
        "a": "runs/a/",
        "a-3": "b/a",
        "c": "c/adapter.safetensors",
    }


def test_a_short_name_that_another_checkpoint_has_drops_none() -> None:
    assert EvaluateRun(adapter=["p/m-3", "q/m", "r/m"]).names() == {"m-3": "p/m-3", "m": "q/m", "m-4": "r/m"}
    assert EvaluateRun(adapter=["q/m", "r/m", "p/m-2"]).names() == {
        "m": "q/m",
        "m-2": "r/m",
        "m-2-3": "p/m-2",
    }


def test_a_tie_is_broken_by_the_next_headline_and_equals_share_a_place() -> None:
    def result(name: str, *means: float | None, calls: int = 5) -> Result:
        numbers = {
            "overall": {k: {"mean": m, "low": None} for k, m in zip(("exact", "tc"), means, strict=True)},
            "set": {},
        }
        numbers["cost"] = {"unet_calls": calls, "seconds_per_clip": None}
        about = {
            "suite_name": "s",
            "rule": {},
            "metrics": [],
            "headlines": ["exact", "tc"],
            "num_clips": 2,
            "valid": True,
            "sampler": {},
        }
        return Result(Path(name), name, name, {**about, "checkpoints": {name: numbers}}, {})

    given = [
        result("none", None, None),
        result("zero", 0, 0, calls=1),
        result("dear", 0, 0.06, calls=9),
        result("cheap", 0, 0.06),
    ]
    rows = board([*given, result("best", 0.5, 0)])["rows"]
    assert [(row["rank"], row["label"]) for row in rows] == [
        (1, "best"),
        (2, "cheap"),
        (2, "dear"),
        (4, "zero"),
        (5, "none"),
    ]


def test_a_sweeps_evaluations_have_folders_of_their_own() -> None:
    one, two = (
        EvaluateRun(adapter="untrained", sweep="s", suite=SUITE, sampling=SamplingOverrides(guidance=g))
        for g in (1.0, 3.0)
    )
    assert (
        one.folder()
        == EvaluateRun(
            adapter="untrained", sweep="s", suite=SUITE, sampling=SamplingOverrides(guidance=1.0), n=9
        ).folder()
        != two.folder()
    )
    assert one.folder().parent == Path("outputs/sweeps/s")
    assert one.folder().name.startswith("untrained_custom_guidance1_steps25_")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweep": "a/b"}, "sweep is the name of a folder"),
        ({"sweep": "a", "out": "b"}, "give one"),
        ({"videos": ["a", "a"]}, "videos must name one folder"),
        ({"num_processes": -1}, "must not be negative"),
    ],
)
def test_settings_are_refused_with_the_law(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EvaluateRun(**settings)


@pytest.mark.parametrize("adapter", [[], ["x", "x"], [1]])
def test_adapters_must_be_different_names(adapter: list) -> None:
    with pytest.raises(ValueError, match="adapter must name one checkpoint"):
        EvaluateRun(adapter=adapter)


def test_a_sampler_that_returns_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must return uint8 b f h w 3"):
        evaluate(run(tmp_path), quiet(), {"a": source(lambda todo: perfect(todo) / 255)})
