"""Videos of any tool with prompts of their own, judged by what looks through a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.compare import chosen, compare
from vgen.app.judging.clip_store import truth
from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.judging.own_prompts import judge
from vgen.app.loading import TOYBOX
from vgen.metrics.learned.settings import LearnedMetrics, Weights
from vgen.metrics.suite import Suite, tasks
from vgen.resources import data_dir

TODO = tasks(Suite(iid=3, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=3, stride_ticks=4))


def made(folder: Path, order: list[int], words: str = "prompt") -> Path:
    """Clip ``order[i]`` under the words of clip ``i``."""
    folder.mkdir()
    for i, j in enumerate(order):
        np.save(folder / f"video {i}.npy", truth(TODO[j], 64))
    rows = [{"file": f"video {i}.npy", words: task.caption} for i, task in enumerate(TODO)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(out: Path, *folders: Path, **settings) -> EvaluateRun:
    clip = LearnedMetrics(clip=Weights(path=str(data_dir() / TOYBOX)))
    given = {"metrics": ["clip_text", "lpips"], "learned": clip, "suite_name": "none", **settings}
    return EvaluateRun(videos=[str(f) for f in folders], out=str(out), **given)


def quiet() -> Console:
    return Console(quiet=True)


def test_the_right_clips_beat_those_of_other_prompts(tmp_path: Path) -> None:
    """Two tools, the same prompts; the one that mixed its clips up is told apart, clip by clip."""
    right, mixed = made(tmp_path / "right", [0, 1, 2]), made(tmp_path / "mixed", [1, 2, 0], "caption")
    found = judge(run(tmp_path / "out", right, mixed), quiet())
    text = {name: of["learned"]["clip_text"]["value"] for name, of in found["checkpoints"].items()}
    assert text["right"] > text["mixed"] + 10
    assert (
        found["checkpoints"]["right"]["learned"]["lpips"]["skipped"]
        == "lpips compares with sources, which were not given"
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(row["caption"] and row["clip"] and row["clip_text"] for row in rows)
    compared = compare(chosen([f"{tmp_path / 'out'}:mixed", f"{tmp_path / 'out'}:right"]), ["clip_text"])
    assert compared["learned"]["right"]["clip_text"]["buckets"]["all"]["better"] == 3


def test_the_report_shows_clips_side_by_side_and_no_truth(tmp_path: Path, browser) -> None:
    """The prompt on which the two tools differ most comes first; nothing on the page needs an oracle."""
    right, mixed = made(tmp_path / "right", [0, 1, 2]), made(tmp_path / "mixed", [0, 2, 1])
    judge(run(tmp_path / "out", right, mixed), quiet())
    browser.open(tmp_path / "out" / "report" / "index.html")
    browser.until("document.querySelectorAll('.clip[data-on] video').length >= 4")
    browser.until(
        "[...document.querySelectorAll('.clip[data-on] video')].every(v => v.currentTime > 0 && "
        "v.videoWidth >= 128)"
    )
    captions = browser.run("[...document.querySelectorAll('.cap')].map(c => c.firstChild.textContent)")
    assert sorted(captions) == sorted(t.caption for t in TODO)
    assert captions[-1] == TODO[0].caption, "on which they agree"
    assert browser.run(
        "[...document.querySelector('.clip').querySelectorAll('figcaption')].map(c => c.textContent)"
    ) == ["right", "mixed"]
    assert browser.run("document.querySelector('.chip.value').textContent").startswith("clip_text ")
    assert browser.run("[...document.querySelectorAll('h2')].filter(h => h.offsetParent).map(h => "
                       "h.textContent)") == [
        "Learned metrics", "Clips", "Manifest",
    ]  # fmt: skip
    for key in ("d", "o", "j", "s"):
        browser.press(key)
    browser.until("document.querySelectorAll('#strip canvas[data-painted]').length === 6")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_sets_with_other_prompts_are_not_compared(tmp_path: Path) -> None:
    first, less = made(tmp_path / "first", [0, 1, 2]), made(tmp_path / "less", [0, 1, 2])
    (less / "video 2.npy").unlink()
    (less / "prompts.jsonl").write_text(
        "".join((less / "prompts.jsonl").read_text().splitlines(keepends=True)[:2])
    )
    with pytest.raises(
        ValueError, match=r"less lacks 1 prompts \(such as '.*'\); complete them or give them one by one"
    ):
        judge(run(tmp_path / "out", first, less), quiet())
    for name, folder in (("a", first), ("b", less)):
        judge(run(tmp_path / name, folder), quiet())
    with pytest.raises(ValueError, match="the suites differ in prompts"):
        compare(chosen([str(tmp_path / "a"), str(tmp_path / "b")]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows[:2], r"has no prompt for 1 videos of .* \(such as video 2\); add them"),
        (
            lambda rows: [*rows, {"file": "video 9.npy", "prompt": "x"}],
            "name video 9.npy, which is not there",
        ),
        (
            lambda rows: [*rows[:2], rows[2] | {"prompt": rows[0]["prompt"].upper()}],
            "has the same prompt more than once: .*case does not",
        ),
        (lambda rows: [*rows, rows[0] | {"prompt": "x"}], "has the same file more than once: video 0"),
        (lambda rows: [*rows[:2], {"file": "video 2.npy"}], r"each row needs file and caption \(or prompt\)"),
        (
            lambda rows: [*rows[:2], {"file": "video 2.npy", "prompt": " "}],
            r"each row needs file and caption \(or prompt\)",
        ),
    ],
    ids=["incomplete", "lost", "twice", "file twice", "no prompt", "empty"],
)
def test_incomplete_and_duplicate_prompts_are_refused(tmp_path: Path, spoil, words: str) -> None:
    folder = made(tmp_path / "x", [0, 1, 2])
    path = folder / "prompts.jsonl"
    rows = spoil([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=words):
        judge(run(tmp_path / "out", folder), quiet())
    assert not (tmp_path / "out").exists()


def test_a_csv_elsewhere_will_do(tmp_path: Path) -> None:
    folder = made(tmp_path / "x", [0, 1, 2])
    (folder / "prompts.jsonl").unlink()
    with pytest.raises(ValueError, match="has no prompts; give prompts=FILE"):
        judge(run(tmp_path / "out", folder), quiet())
    (tmp_path / "mine.csv").write_text(
        "file,prompt\n" + "".join(f'video {i}.npy,"{t.caption}"\n' for i, t in enumerate(TODO))
    )
    found = judge(
        run(tmp_path / "out", folder, prompts=str(tmp_path / "mine.csv"), metrics=["temporal_flickering"]),
        quiet(),
    )
    assert found["num_clips"] == 3
    assert found["checkpoints"]["x"]["learned"]["temporal_flickering"]["value"] > 0.5


def test_clips_of_several_shapes_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "x", [0, 1, 2])
    np.save(folder / "video 1.npy", truth(TODO[1], 32))
    with pytest.raises(ValueError, match="all clips must have the same frames and size"):
        judge(run(tmp_path / "out", folder), quiet())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": []}, "has no truth to score against; name metrics="),
        ({"adapter": "x"}, "has no prompts to draw"),
    ],
)
def test_mistakes_speak(tmp_path: Path, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge(run(tmp_path / "out", tmp_path, **settings), quiet())
