"""Videos of any other tool: taken whole, or refused with one sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from rich.console import Console

from vgen.app.evaluate import EvaluateRun, Stage, evaluate
from vgen.app.judging.clip_store import truth
from vgen.app.judging.video_set import open_videos, read_listing, read_video
from vgen.data.clip_files import write_gif
from vgen.data.mp4 import encode_mp4
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.kinds.identity import AskedIdentity
from vgen.metrics.suite import Kind, Suite, Task, tasks

SUITE = Suite(iid=3, pair=1, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4)
TODO = tasks(SUITE)


def mp4(path: Path, video: np.ndarray) -> None:
    path.write_bytes(encode_mp4(video, 8, crf=4))


def npy(path: Path, video: np.ndarray) -> None:
    np.save(path, video)


def frames(path: Path, video: np.ndarray) -> None:
    path.mkdir()
    for i, frame in enumerate(video):
        Image.fromarray(frame).save(path / f"frame_{i}.png")


def made(folder: Path, todo: list[Task] = TODO) -> Path:
    """Clips in every format, named by their tasks."""
    folder.mkdir()
    writers = [(npy, ".npy"), (frames, ""), (lambda p, v: write_gif(p, v), ".gif"), (mp4, ".mp4")]
    for task, (write, ending) in zip(todo, writers, strict=True):
        write(folder / f"{task.id}{ending}", truth(task, 64))
    return folder


def listing(folder: Path, rows: list[tuple[str, str]]) -> None:
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"file": file, "caption": caption}) + "\n" for file, caption in rows)
    )


def numbered(folder: Path) -> list[tuple[str, str]]:
    folder.mkdir()
    for i, task in enumerate(TODO):
        npy(folder / f"{i}.npy", truth(task, 64))
    return [(f"{i}.npy", task.caption) for i, task in enumerate(TODO)]


MARKS = "a red\u2028circle\x0cmoves"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "marked"])
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.csv",
            'file,caption\r\n0.npy,"a red\ncircle"\r\n1.npy,' + MARKS + "\r\n",
            ["a red\ncircle", MARKS],
        ),
        (
            "a.jsonl",
            f'{{"file": "0.npy", "caption": "{MARKS[:8]}"}}\r\n\r\n{{"file": "1.npy", "prompt": "b"}}',
            [MARKS[:8], "b"],
        ),
        ("a.txt", f"{MARKS}\r\n b \n\n", [MARKS, "b"]),
    ],
)
def test_a_listing_is_read_as_it_was_written(
    tmp_path: Path, name: str, text: str, words: list[str], mark: bytes
) -> None:
    """Marks that Python takes for line ends stay in their caption, and some editors begin UTF-8 with one."""
    path = tmp_path / name
    path.write_bytes(mark + text.encode())
    assert read_listing(path, {"0.npy": path, "1.npy": path}) == [("0.npy", words[0]), ("1.npy", words[1])]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_a_listing_in_another_encoding_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("gr\u00fcn".encode("latin-1"))
    with pytest.raises(
        ValueError,
        match=rf"prompts=.*{name} must be text in UTF-8 \(invalid .* at byte 2\); save it as UTF-8",
    ):
        read_listing(tmp_path / name, {})


def settle(folder: Path, out: Path, **settings):
    run = EvaluateRun(videos=str(folder), suite=SUITE, out=str(out), selftest=2, **settings)
    return evaluate(run, Console(quiet=True))


def test_every_format_reads_as_it_was_written(tmp_path: Path) -> None:
    videos = open_videos(str(made(tmp_path / "theirs")), "", TODO)
    for task, lossless in zip(TODO, (True, True, False, False), strict=True):
        off = np.abs(videos.sampler([task])[0].astype(int) - truth(task, 64))
        assert off.max() == 0 if lossless else off.mean() < 6, task.id


@pytest.mark.parametrize(
    ("fps", "hundredths"),
    [(8, [12, 13, 13, 12]), (24, [4, 4, 4, 5]), (10, [10] * 4), (50, [2] * 4), (120, [2] * 4)],
)
def test_a_gif_takes_as_long_as_its_clip(tmp_path: Path, fps: float, hundredths: list[int]) -> None:
    """Until there are fewer hundredths than browsers heed; what rounding makes uneven is still taken for one
    frame each."""
    video = np.stack([np.full((16, 16, 3), 60 * (i // 2), np.uint8) for i in range(8)])
    write_gif(tmp_path / "all.gif", video[::2], fps)
    with Image.open(tmp_path / "all.gif") as gif:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(gif)] == [
            10 * of for of in hundredths
        ]
    write_gif(tmp_path / "joined.gif", video[1:], fps)
    found = read_video(tmp_path / "joined.gif", 7)
    assert [round(float(frame.mean()) / 60) for frame in found] == [0, 1, 1, 2, 2, 3, 3]


def test_a_gif_that_joined_equal_frames_has_them_again(tmp_path: Path) -> None:
    still = np.repeat(truth(TODO[0], 64)[:1], 4, 0)
    write_gif(tmp_path / "a.gif", still)
    assert read_video(tmp_path / "a.gif", 4).shape == (4, 64, 64, 3)
    write_gif(tmp_path / "b.gif", np.concatenate([still[:3], still[:1] // 2]))
    assert [int(f.mean() < still.mean() * 0.8) for f in read_video(tmp_path / "b.gif", 4)] == [0, 0, 0, 1]
    assert len(read_video(tmp_path / "b.gif", 3)) == 2, "three frames is not what its durations say"


def test_the_truth_from_another_tool_is_exact(tmp_path: Path) -> None:
    found = settle(made(tmp_path / "theirs"), tmp_path / "out").summary
    assert found["checkpoints"]["theirs"]["overall"]["exact"]["mean"] == 1
    assert found["valid"] is None, "no decoder was tried"
    assert found["checkpoints"]["theirs"]["identity"]["decoded_from"] == {
        ".gif": 1,
        ".mp4": 1,
        ".npy": 1,
        "png folder": 1,
    }
    cost = found["checkpoints"]["theirs"]["cost"]
    assert cost == {"unet_calls": None, "seconds_per_clip": None, "peak_gib": None}
    again = settle(tmp_path / "theirs", tmp_path / "out").summary
    assert again == found


def test_prompts_are_written_for_other_tools(tmp_path: Path) -> None:
    assert (
        evaluate(EvaluateRun(suite=SUITE, out=str(tmp_path), stage=Stage.PROMPTS), Console(quiet=True))
        is None
    )
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [(r["file"], r["caption"], r["num_frames"]) for r in rows] == [
        (f"{t.id}.mp4", t.caption, 4) for t in TODO
    ]
    for row, task in zip(rows, TODO, strict=True):
        mp4(tmp_path / row["file"], truth(task, 64))
    assert set(open_videos(str(tmp_path), "", TODO).clips) == {t.id for t in TODO}, (
        "the listing that is there is the one that is read"
    )


@pytest.mark.parametrize(
    ("kind", "given", "whole"),
    [
        (
            {"kind": Kind.CONTROL, "control": AskedControl(control=Control.EDGES)},
            "control",
            {"j_norm": 1.0, "exact": 1.0},
        ),
        (
            {"kind": Kind.CONTROL, "control": AskedControl(control=Control.DEPTH)},
            "control",
            {"j_norm": 1.0, "exact": 1.0},
        ),
        (
            {"kind": Kind.CONTROL, "control": AskedControl(control=Control.POSE)},
            "control",
            {"pck": 1.0, "clothes": 1.0},
        ),
        (
            {"kind": Kind.IDENTITY, "identity": AskedIdentity(prompts_per_subject=2)},
            "references",
            {"id_exact": 1.0, "bitacc": 1.0},
        ),
        ({"kind": Kind.EDIT}, "source", {"edit": 1.0, "edit_strict": 1.0, "keep_acc": 1.0, "bg": 1.0}),
    ],
    ids=["edges", "depth", "pose", "identity", "edit"],
)
def test_kinds_that_need_more_than_a_caption_go_through_files(
    tmp_path: Path, kind: dict, given: str, whole: dict[str, float]
) -> None:
    """Prompts and inputs out, another tool's videos in. The other tool is the oracle's own renderer, so
    everything is right."""
    suite = Suite(
        iid=4, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2, **kind
    )
    folder = tmp_path / "theirs"
    evaluate(EvaluateRun(suite=suite, out=str(folder), stage=Stage.PROMPTS), Console(quiet=True))
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for row, task in zip(rows, tasks(suite), strict=True):
        assert np.load(folder / row[given]).any()
        npy((folder / row["file"]).with_suffix(".npy"), truth(task, 64))
    run = EvaluateRun(videos=str(folder), suite=suite, out=str(tmp_path / "out"), selftest=2)
    found = evaluate(run, Console(quiet=True)).summary
    overall = found["checkpoints"]["theirs"]["overall"]
    assert {key: overall[key]["mean"] for key in whole} == pytest.approx(whole, abs=0.02)
    first = found["headlines"][0]
    assert found["floors"][first][0] < overall[first]["mean"], "no trick is as good as the truth"
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert all(key in page for key in whole)
    data = json.loads(
        (tmp_path / "out" / "report" / "data.js")
        .read_text()
        .removeprefix("window.REPORT = ")
        .removesuffix(";\n")
    )
    assert all(clip["given"]["src"].endswith(".mp4") for clip in data["clips"]), (
        "the page shows what the method was given"
    )


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": Kind.CONTROL},
        {"kind": Kind.CONTROL, "control": AskedControl(control=Control.POSE)},
        {"kind": Kind.IDENTITY},
    ],
)
def test_a_checkpoint_that_draws_from_captions_refuses_them(tmp_path: Path, kind: dict) -> None:
    suite = Suite(
        iid=4, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=4, stride_ticks=4, **kind
    )
    with pytest.raises(
        ValueError,
        match=r"needs more than a caption, and adapter=untrained draws .*; 'vgen evaluate stage=prompts'",
    ):
        evaluate(EvaluateRun(adapter="untrained", suite=suite, out=str(tmp_path)), Console(quiet=True))


def test_of_several_tasks_with_one_caption_each_gets_the_file_of_its_name(tmp_path: Path) -> None:
    twice = tasks(replace(SUITE, num_seeds=2))
    (tmp_path / "x").mkdir()
    for task in twice:
        npy(tmp_path / "x" / f"{task.id}.npy", truth(task, 64))
    listing(tmp_path / "x", [(f"{task.id}.npy", task.caption) for task in reversed(twice)])
    assert {i: p.stem for i, p in open_videos(str(tmp_path / "x"), "", twice).clips.items()} == {
        t.id: t.id for t in twice
    }


def test_captions_find_their_clips_whatever_the_case(tmp_path: Path) -> None:
    rows = numbered(tmp_path / "x")
    listing(tmp_path / "x", [(file, f" {caption.upper()} ") for file, caption in reversed(rows)])
    assert {i: p.name for i, p in open_videos(str(tmp_path / "x"), "", TODO).clips.items()} == {
        t.id: f"{i}.npy" for i, t in enumerate(TODO)
    }
    (tmp_path / "x" / "prompts.jsonl").unlink()
    (tmp_path / "mine.txt").write_text("\n".join(t.caption for t in TODO))
    assert len(open_videos(str(tmp_path / "x"), str(tmp_path / "mine.txt"), TODO).clips) == 4
    (tmp_path / "mine.csv").write_text("file,caption\n" + "\n".join(f'{f},"{c}"' for f, c in rows))
    assert len(open_videos(str(tmp_path / "x"), str(tmp_path / "mine.csv"), TODO).clips) == 4


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no video; it must hold mp4, gif or npy files"):
        settle(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="is no folder"):
        settle(tmp_path / "none", tmp_path / "out")


def test_an_incomplete_set_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "x")
    (tmp_path / "x" / "iid-0000.npy").rename(tmp_path / "x" / "other.npy")
    with pytest.raises(
        ValueError,
        match=r"lacks 1 clips of the suite \(such as iid-0000\) and holds 1 that the suite does not know "
        r"\(such as other\)",
    ):
        settle(tmp_path / "x", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "a set is taken whole or not at all"


def test_a_caption_that_is_lacking_is_named(tmp_path: Path) -> None:
    rows = numbered(tmp_path / "x")
    listing(tmp_path / "x", rows[:-1])
    with pytest.raises(ValueError, match=r"lacks 1 clips of the suite .*needs one clip for each caption"):
        open_videos(str(tmp_path / "x"), "", TODO)


def test_duplicate_prompts_are_refused_whatever_the_case(tmp_path: Path) -> None:
    rows = numbered(tmp_path / "x")
    npy(tmp_path / "x" / "twice.npy", truth(TODO[0], 64))
    listing(tmp_path / "x", [*rows, ("twice.npy", TODO[0].caption.title())])
    with pytest.raises(
        ValueError, match=r"more clips than the suite asks for of .* \(2 times\) \(case does not count\)"
    ):
        open_videos(str(tmp_path / "x"), "", TODO)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "x")
    mp4(tmp_path / "x" / "IID-0000.mp4", truth(TODO[0], 64))
    with pytest.raises(ValueError, match="two videos of the same name for iid-0000"):
        open_videos(str(tmp_path / "x"), "", TODO)


def test_a_listed_file_must_exist(tmp_path: Path) -> None:
    rows = numbered(tmp_path / "x")
    listing(tmp_path / "x", [*rows, ("gone.mp4", "a red star")])
    with pytest.raises(ValueError, match=r"name gone.mp4, which is not there"):
        open_videos(str(tmp_path / "x"), "", TODO)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\n", "has 2 captions for 4 videos"),
        ('{"file": "0.npy"}\n' * 4, "each row needs file and caption"),
        ("{", "can't be read"),
    ],
)
def test_a_listing_that_does_not_fit_is_refused(tmp_path: Path, text: str, words: str) -> None:
    numbered(tmp_path / "x")
    path = tmp_path / ("p.txt" if text.startswith("a") else "p.jsonl")
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        open_videos(str(tmp_path / "x"), str(path), TODO)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda v: v[:3], r"every clip must have 4 frames as the suite asks, but iid-0000.npy has 3"),
        (
            lambda v: v[:, ::2, ::2],
            r"clips of one set must have one size, but iid-0000.npy is 32x32 and iid-0001 is 64x64",
        ),
        (
            lambda v: v / np.float32(255),
            r"iid-0000.npy can't be read: it holds float32 \(4, 64, 64, 3\) where uint8 f h w 3 is needed",
        ),
    ],
)
def test_clips_that_do_not_fit_are_refused(tmp_path: Path, spoil, words: str) -> None:
    made(tmp_path / "x")
    npy(tmp_path / "x" / "iid-0000.npy", spoil(truth(TODO[0], 64)))
    with pytest.raises(ValueError, match=words):
        settle(tmp_path / "x", tmp_path / "out")


def test_clips_must_be_square(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for task in TODO:
        npy(tmp_path / "x" / f"{task.id}.npy", truth(task, 64)[:, :, :32])
    with pytest.raises(ValueError, match=r"the suite's pictures are square, but iid-0000.npy is 32x64"):
        open_videos(str(tmp_path / "x"), "", TODO)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_mp4_is_refused(tmp_path: Path, share: float) -> None:
    made(tmp_path / "x")
    path = tmp_path / "x" / "pair-0000.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"pair-0000.mp4 can't be read: .*; make it again"):
        settle(tmp_path / "x", tmp_path / "out")


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    frames(tmp_path / "x", truth(TODO[0], 64))
    (tmp_path / "x" / "frame_2.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ValueError, match=r"x can't be read: .*; make it again"):
        read_video(tmp_path / "x", 4)


def test_a_set_that_changed_is_another_set(tmp_path: Path) -> None:
    settle(made(tmp_path / "x"), tmp_path / "out")
    npy(tmp_path / "x" / "iid-0000.npy", truth(TODO[1], 64))
    with pytest.raises(ValueError, match="differs in checkpoint x"):
        settle(tmp_path / "x", tmp_path / "out")
