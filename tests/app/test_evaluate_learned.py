"""Metrics that look through a network, in an evaluation: measured with the shipped image model's CLIP,
skipped with the reason, refused where the weights are others, and compared only where they were measured by
one rule."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.compare import chosen, compare, tables
from vgen.app.evaluate import EvaluateRun, Source, evaluate
from vgen.app.judging.clip_store import truth
from vgen.app.judging.page import PageSettings
from vgen.app.loading import TOYBOX
from vgen.metrics.learned.settings import LearnedMetrics, Weights
from vgen.metrics.learned.weights import digest
from vgen.metrics.suite import Suite, Task
from vgen.resources import data_dir

SUITE = Suite(iid=3, pair=1, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)
CLIP = data_dir() / TOYBOX
METRICS = ["clip_text", "clip_frame_consecutive", "warp_error", "aesthetic_quality"]


def perfect(todo: list[Task]) -> np.ndarray:
    return np.stack([truth(task, 64) for task in todo])


def grey(todo: list[Task]) -> np.ndarray:
    return np.full((len(todo), 4, 64, 64, 3), 128, np.uint8)


def settle(folder: Path, clip: Weights | None = None, **samplers) -> Path:
    run = EvaluateRun(
        suite=SUITE,
        out=str(folder),
        selftest=0,
        page=PageSettings(max_clips=1),
        metrics=METRICS,
        learned=LearnedMetrics(clip=clip or Weights(path=str(CLIP))),
    )
    evaluate(
        run,
        Console(quiet=True),
        {name: Source({"adapter": name}, lambda s=s: s) for name, s in samplers.items()},
    )
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(tmp_path_factory.mktemp("learned") / "both", good=perfect, bad=grey)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return settle(tmp_path_factory.mktemp("learned") / "alone", good=perfect)


def learned(folder: Path, name: str) -> dict:
    return json.loads((folder / "summary.json").read_text())["checkpoints"][name]["learned"]


def test_the_shipped_clip_measures_an_evaluation(done: Path) -> None:
    good, bad = learned(done, "good"), learned(done, "bad")
    assert good["clip_text"]["value"] > 20 > bad["clip_text"]["value"], (
        "the truth is what its caption says, grey is not"
    )
    assert bad["clip_frame_consecutive"]["value"] == pytest.approx(1), (
        "a grey clip agrees with itself: no consistency stands alone"
    )
    assert len(good["clip_text"]["per_clip"]) == 4
    said = good["clip_text"]["manifest"]
    assert said["weights"] == {"clip": digest(CLIP)}
    assert (said["n"], said["frames"], said["size"], said["codec"]) == (4, 4, [64, 64], "raw")


def test_what_has_no_weights_says_why_and_where_to_get_them(done: Path) -> None:
    skipped = learned(done, "good")["aesthetic_quality"]
    assert skipped["value"] is None
    assert skipped["skipped"].startswith("aesthetic_quality: no weights: set learned.aesthetic.path to ")
    page = (done / "report" / "index.html").read_text()
    assert "skipped: aesthetic_quality: no weights" in page
    assert f"{learned(done, 'good')['clip_text']['value']:.4g}" in page


def test_other_weights_than_the_declared_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    def never(todo: list[Task]) -> np.ndarray:
        raise AssertionError("nothing should be drawn")

    with pytest.raises(ValueError, match=rf"must have the declared sha256 {'0' * 64}, got {digest(CLIP)}"):
        settle(tmp_path / "x", Weights(path=str(CLIP), sha256="0" * 64), a=never)
    assert not (tmp_path / "x").exists()
    settle(tmp_path / "y", Weights(path=str(CLIP), sha256=digest(CLIP)), a=perfect)


def test_learned_metrics_are_compared_clip_by_clip(done: Path) -> None:
    found = compare(chosen([f"{done}:bad", f"{done}:good"]))
    text = found["learned"]["good"]["clip_text"]
    assert text["better"] == "higher"
    assert list(text["buckets"]) == ["all", "iid", "pair", "1 thing", "2 things"]
    assert text["buckets"]["all"]["difference"]["low"] > 0
    assert text["buckets"]["all"]["better"] == 4
    warp = found["learned"]["good"]["warp_error"]
    assert warp["better"] == "lower"
    assert warp["buckets"]["all"]["worse"] > 0, "less error is better, and grey has none"
    assert found["learned"]["good"]["aesthetic_quality"]["refused"].startswith(
        "a skipped metric cannot be compared"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "clip_words"),
        ("version", 2),
        ("weights", {"clip": "f" * 64}),
        ("n", 5),
        ("frames", 8),
        ("size", [32, 32]),
        ("resize", "none at all"),
        ("codec", "h264 crf 18"),
        ("seed", 3),
    ],
)
def test_a_metric_measured_otherwise_is_refused_and_says_in_what(
    done: Path, alone: Path, tmp_path: Path, field: str, value
) -> None:
    other = tmp_path / "other"
    shutil.copytree(alone, other)
    summary = json.loads((other / "summary.json").read_text())
    summary["checkpoints"]["good"]["learned"]["clip_text"]["manifest"][field] = value
    (other / "summary.json").write_text(json.dumps(summary))
    found = compare(chosen([f"{done}:good", str(other)]))
    [told] = [of["clip_text"] for of in found["learned"].values()]
    assert f"they differ in {field} (" in told["refused"]
    assert "clip_frame_consecutive" in next(iter(found["learned"].values())), "the others may be compared"
    with pytest.raises(
        ValueError, match=rf"numbers=clip_text: .* can't be compared: .* they differ in {field} \("
    ):
        compare(chosen([f"{done}:good", str(other)]), ["clip_text"])
    out = StringIO()
    Console(file=out, width=160).print(tables(found)[0])
    shown = " ".join(out.getvalue().split())
    assert f"differ in {field}" in shown
    assert "clip_frame_consecutive" in shown


def test_a_metric_that_only_one_side_has_is_named(done: Path, alone: Path, tmp_path: Path) -> None:
    less = tmp_path / "less"
    shutil.copytree(alone, less)
    summary = json.loads((less / "summary.json").read_text())
    del summary["checkpoints"]["good"]["learned"]["clip_text"]
    (less / "summary.json").write_text(json.dumps(summary))
    [found] = compare(chosen([f"{done}:good", str(less)]))["learned"].values()
    assert found["clip_text"]["refused"].startswith(
        "clip_text was not measured for good (less); evaluate both with metrics=[clip_text]"
    )


def test_videos_that_went_through_a_codec_do_not_stand_beside_raw_ones(done: Path, tmp_path: Path) -> None:
    """In the report too: the number is there, and why it may not be read against the first."""
    from vgen.app.judging.learned import side_by_side
    from vgen.app.judging.results import load
    from vgen.data.mp4 import encode_mp4

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    run = EvaluateRun(
        videos=str(theirs),
        suite=SUITE,
        out=str(tmp_path / "out"),
        selftest=0,
        metrics=["clip_text"],
        learned=LearnedMetrics(clip=Weights(path=str(CLIP))),
    )
    for task in run.tasks():
        (theirs / f"{task.id}.mp4").write_bytes(encode_mp4(truth(task, 64), 8, crf=4))
    evaluate(run, Console(quiet=True))
    row = next(r for r in side_by_side(load(done, tmp_path / "out")) if r["metric"] == "clip_text")
    assert [c["why"] is None for c in row["cells"]] == [True, True, False]
    assert (
        "not comparable: two values of clip_text cannot be compared, since they differ in codec (raw and "
        ".mp4)" in row["cells"][2]["why"]
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["clip_words"], "there is no metric called clip_words; those offered are"),
        (["fid"], "fid needs 2048 frames a side"),
    ],
)
def test_mistakes_speak_before_anything_is_drawn(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(EvaluateRun(suite=SUITE, out=str(tmp_path / "x"), metrics=names), Console(quiet=True), {})
    assert not (tmp_path / "x").exists()


def test_what_a_reader_should_know_is_said_once() -> None:
    from types import SimpleNamespace

    from vgen.app.judging.learned import noted

    cut = {"value": 1.0, "notes": ["3 of 4 prompts were longer than 77 tokens and were cut"]}
    whole = {"value": 1.0, "notes": []}
    one = SimpleNamespace(numbers={"learned": {"clip_text": cut, "pick_score": cut, "lpips": whole}})
    said = noted([one, one])
    assert said == ["clip_text, pick_score: 3 of 4 prompts were longer than 77 tokens and were cut"]
