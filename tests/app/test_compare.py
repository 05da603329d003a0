"""Two evaluations side by side: the difference clip by clip, or a sentence that says why they must not be
compared."""

from __future__ import annotations

import json
import re
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app import compare as verb
from vgen.app.compare import chosen, compare, tables
from vgen.app.evaluate import EvaluateRun, Source, evaluate
from vgen.app.judging.clip_store import truth
from vgen.app.judging.leaderboard import alike
from vgen.app.judging.page import PageSettings
from vgen.app.judging.results import load
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.metrics.kinds.diversity import AskedDiversity, one_clip
from vgen.metrics.kinds.text import AskedText
from vgen.metrics.suite import Kind, Suite, Task

SUITE = Suite(iid=4, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def frozen(todo: list[Task]) -> np.ndarray:
    return np.repeat(perfect(todo)[:, :1], 4, 1)


def settle(folder: Path, suite: Suite = SUITE, **samplers) -> Path:
    run = EvaluateRun(suite=suite, out=str(folder), selftest=0, page=PageSettings(max_clips=0))
    evaluate(
        run,
        Console(quiet=True),
        {name: Source({"adapter": name}, lambda s=sampler: s) for name, sampler in samplers.items()},
    )
    return folder


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(tmp_path_factory.mktemp("x") / "before", old=frozen)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(tmp_path_factory.mktemp("x") / "after", new=perfect, same=frozen)


def test_the_difference_is_paired_and_by_bucket(before: Path, after: Path) -> None:
    found = compare(chosen([str(before), str(after)]))
    assert (found["base"], list(found["against"])) == ("old", ["new", "same"])
    moved = found["against"]["new"]["motion_moving"]
    assert list(moved) == ["all", "iid", "pair", "1 thing", "2 things"]
    parts = [moved[name]["difference"]["num"] for name in moved]
    assert parts[0] == parts[1] + parts[2] == parts[3] + parts[4]
    assert moved["all"]["difference"]["mean"] == 1 > moved["all"]["difference"]["low"] > 0
    assert moved["all"]["better"] == moved["all"]["difference"]["num"] <= 6
    assert found["against"]["same"]["motion_moving"]["all"]["difference"]["mean"] == 0


SETS = Suite(
    kind=Kind.DIVERSITY,
    iid=32,
    pair=0,
    triple=0,
    extrapolation=0,
    paraphrase=0,
    diversity=AskedDiversity(seeds_per_prompt=8),
    num_frames=4,
    stride_ticks=4,
)


def the_same(todo: list[Task]) -> np.ndarray:
    return np.stack([one_clip(task, 64) for task in todo])


def test_numbers_of_many_clips_differ_by_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clip for every noise of a caption is right clip by clip; only the numbers of many clips tell it
    from the world."""
    clips = {"world": perfect, "again": the_same, "twin": perfect}
    folders = [settle(tmp_path / name, SETS, **{name: made}) for name, made in clips.items()]
    found = compare(chosen([*map(str, folders)]))["sets"]
    assert list(found["again"]) == ["energy", "vendi_ratio", "dup", "set_energy"]
    for key, of in found["again"].items():
        x = of["buckets"]["all"]
        summary = {name: load(folders[i])[0].numbers["set"][key] for i, name in enumerate(("base", "other"))}
        assert {name: x[name] for name in summary} == summary, "both values are those of the evaluations"
        assert x["difference"]["mean"] == pytest.approx(x["other"]["mean"] - x["base"]["mean"])
        assert not x["difference"]["low"] <= 0 <= x["difference"]["high"], key
        same = found["twin"][key]["buckets"]["all"]["difference"]
        unseen = 0 if key != "dup" else pytest.approx(1 - 0.025 ** (1 / 4))  # no pair of four captions
        assert (same["mean"], -same["low"], same["high"]) == (0, unseen, unseen)
    asked = compare(chosen([*map(str, folders[:2])]), ["set_mmd2", "entropy_ground"])["sets"]["again"]
    assert {"set_mmd2", "entropy_ground"} < set(asked)
    assert asked["entropy_ground"]["right"] is None
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["vgen compare", *map(str, folders[:2])])
    verb.main()
    assert re.search(
        r"dup +4 +0\.000 \[0\.000, 0\.602\] +1\.000 \[0\.398, 1\.000\] +\+1\.000",
        capsys.readouterr().out,
    )


def test_both_of_a_minimal_pair_differ_by_pairs(tmp_path: Path) -> None:
    suite = Suite(
        text=AskedText(minimal_pairs=True),
        iid=6,
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=4,
        stride_ticks=4,
    )
    found = compare(
        chosen([str(settle(tmp_path / "both", suite, world=perfect, still=frozen))]), ["pair_colour"]
    )["sets"]["still"]
    assert found["pair"]["buckets"]["all"]["difference"]["mean"] < 0
    assert found["pair"]["right"] == 1
    assert found["pair"]["buckets"]["all"]["base"]["num"] == 6
    assert list(found) == ["pair", "pair_colour"]


def test_recall_from_other_scenes_is_refused(tmp_path: Path) -> None:
    """And so is recall that one of two was not asked for; the same scenes may lie in another folder."""
    corpora = {"a": 20, "twin": 20, "more": 30}
    for name, count in corpora.items():
        prepare(Prepare(data=ToyboxSource(num_clips=count), out=str(tmp_path / "corpus" / name)))
    for name in (*corpora, ""):
        run = EvaluateRun(
            suite=SETS,
            out=str(tmp_path / f"run{name}"),
            selftest=0,
            page=PageSettings(max_clips=0),
            corpus=str(tmp_path / "corpus" / name) if name else "",
        )
        evaluate(run, Console(quiet=True), {f"x{name}": Source({"adapter": name}, lambda: perfect)})
    same = compare(chosen([str(tmp_path / "runa"), str(tmp_path / "runtwin")]))["sets"]["xtwin"]["mem"][
        "buckets"
    ]["all"]
    assert same["difference"]["mean"] == same["difference"]["high"] == 0 < same["base"]["mean"]
    words = (
        r"xa and xmore can't be compared, their clips were held against different training scenes.* of 20 "
        r"and .* of 30; "
    )
    with pytest.raises(ValueError, match=words):
        compare(chosen([str(tmp_path / "runa"), str(tmp_path / "runmore")]))
    bare = chosen([str(tmp_path / "runa"), str(tmp_path / "run")])
    assert compare(bare)["sets"]["x"]["mem"] == {
        "refused": "mem was not measured for x; score it again with corpus=SHARDS"
    }
    with pytest.raises(ValueError, match="numbers=mem: mem was not measured for x"):
        compare(bare, ["mem"])
    assert [
        len(group) for group in alike(load(tmp_path / "run", tmp_path / "runa", tmp_path / "runmore"))
    ] == [2, 1]


def test_one_of_several_and_more_numbers(after: Path) -> None:
    found = compare(chosen([f"{after}:same", f"{after}:new"]), ["speed"])
    assert (found["base"], found["numbers"]) == ("same", [*found["headlines"], "speed"])
    with pytest.raises(ValueError, match="numbers=height is not scored here; there are colour, shape"):
        compare(chosen([str(after)]), ["height"])


def test_what_differs_in_kind_is_refused(tmp_path: Path, before: Path) -> None:
    other = settle(
        tmp_path / "seed",
        Suite(iid=4, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4, seed=1),
        a=frozen,
    )
    fewer = settle(
        tmp_path / "fewer",
        Suite(iid=3, pair=2, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4),
        a=frozen,
    )
    for folder, words in (
        (other, r"the suites differ in seed \(0 and 1\)"),
        (fewer, r"1 clips are in one of them only \(such as iid-0003\), 6 and 5"),
    ):
        with pytest.raises(
            ValueError, match=f"old and a can't be compared, {words}.*; evaluate both on one suite"
        ):
            compare(chosen([str(before), str(folder)]))


def test_other_versions_of_a_metric_are_refused(tmp_path: Path, before: Path) -> None:
    twin = settle(tmp_path / "twin", a=frozen)
    found = json.loads((twin / "summary.json").read_text())
    found["metrics"][0]["version"] += 1
    (twin / "summary.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"metric versions differ: toybox/text-accuracy \d+ and \d+"):
        compare(chosen([str(before), str(twin)]))


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "at least two checkpoints, got 0"),
        (["{}"], "at least two checkpoints, got 1"),
        (["{}", "nowhere"], "nowhere is no folder"),
        (["{}", "{}:x"], "has no checkpoint x; it has old"),
    ],
)
def test_runs_must_be_evaluations(before: Path, runs: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        chosen([run.format(before) for run in runs])


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no finished evaluation \(summary.json is missing\)"):
        chosen([str(tmp_path), str(tmp_path)])


def test_the_command_prints_a_table_and_writes_json(
    before: Path,
    after: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(
        sys, "argv", ["vgen compare", str(before), f"{after}:new", f"out={tmp_path / 'gain.json'}"]
    )
    verb.main()
    shown = capsys.readouterr().out
    assert "new against old" in shown
    assert re.search(r"\+1\.00 \[\+0\.\d\d, \+1\.00\]", shown)
    monkeypatch.setattr(sys, "argv", ["vgen compare", str(before), f"{after}:new", "format=json"])
    verb.main()
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "gain.json").read_text())
    monkeypatch.setattr(sys, "argv", ["vgen compare", str(before), "fromat=json"])
    with pytest.raises(ValueError, match=r"takes out=FILE.json, numbers=NAME,NAME and format=table or json"):
        verb.main()


def test_the_table_fits_eighty_columns(before: Path, after: Path) -> None:
    """Each number's difference stays in one line with its interval; nothing is cut."""
    found = compare(chosen([str(before), str(after)]))
    for width in (80, 140):
        console = Console(width=width, record=True, file=StringIO())
        for table in tables(found, width):
            console.print(table)
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= width
        assert "\u2026" not in "".join(lines)
        for key in found["numbers"]:
            [line] = [line for line in lines if line.split()[:1] == [key]][:1]
            assert re.search(r"[+-]\d\.\d\d \[", line), line
        assert any(line.startswith("  pair ") for line in lines)
