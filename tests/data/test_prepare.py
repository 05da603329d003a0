"""The procedure: the same bytes however it is run, nothing lost and nothing twice when it is killed, every
reject named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vgen.data.ledger import Reason, read_ledger
from vgen.data.listing_source import ListingSource
from vgen.data.manifest import Manifest
from vgen.data.pool import Died, Hung, run_ordered
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.sample import Sample, Video
from vgen.data.sources import Job, Source
from vgen.data.toybox import ToyboxSource
from vgen.spec import spec
from vgen.toybox.renderer import render
from vgen.toybox.scenes import Scene


def test_a_folder_becomes_shards(videos, tmp_path, studio):
    done = studio.run(videos, tmp_path / "out")
    reader = ShardReader(tmp_path / "out")
    assert [s.id for s in reader] == [
        *("clip0-0000", "clip0-0001", "clip1-0000", "clip2-0000"),
        *("clip3-0000", "clip3-0001", "clip3-0002", "clip4-0000", "deep/clip0-0000", "deep/clip0-0001"),
    ]
    sample = reader[5]
    assert (sample.video.shape, sample.caption) == ((8, 32, 32, 3), "bar number 3")
    assert sample.metadata == {
        "fps": 8.0,
        "num_frames": 8,
        "start_seconds": 1.0,
        "aspect": 1.5,
        "source_width_px": 96,
        "source_height_px": 64,
        "source_fps": 25.0,
        "source": "clip3.mp4",
        "clip": 1,
    }
    counts = done.manifest.counts
    assert (counts["files"], counts["clips"], counts["seconds"], counts["rejected"]) == (6, 10, 10.0, 0)
    assert read_ledger(tmp_path / "out") == []
    assert not (tmp_path / "out" / ".work").exists()


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory, studio) -> dict[str, bytes]:
    """What a run by one process that nothing disturbs writes, in several shards."""
    out = tmp_path_factory.mktemp("straight") / "out"
    studio.run(videos, out, num_processes=1, shard_megabytes=0.02)
    return studio.contents(out)


def test_bytes_do_not_depend_on_the_number_of_processes(videos, tmp_path, studio, undisturbed):
    studio.run(videos, tmp_path / "out", num_processes=3, shard_megabytes=0.02)
    assert studio.contents(tmp_path / "out") == undisturbed
    assert sum(name.endswith(".tar") for name in undisturbed) > 1


def break_things(folder: Path, studio) -> dict[str, str]:
    """A folder with every kind of bad file; returns the reason each must get."""
    sound = studio.caption(studio.write_video(folder / "good.mp4")).read_bytes()
    studio.caption(studio.write_video(folder / "good2.mp4"))
    bad = {"cut": sound[: len(sound) // 2], "empty": b"", "noise": b"noise" * 999}
    for name, payload in bad.items():
        studio.caption(folder / f"{name}.mp4").write_bytes(payload)
    flipped = np.frombuffer(sound, np.uint8).copy()
    flipped[np.arange(2000, len(flipped) * 2 // 3, 37)] ^= 0xFF
    studio.caption(folder / "flipped.mp4").write_bytes(flipped.tobytes())
    studio.caption(studio.write_audio(folder / "sound.mp4"))
    studio.caption(studio.write_video(folder / "short.mp4", 24, 0.5))
    studio.write_video(folder / "silent.mp4")
    studio.write_video(folder / "good.mov")
    return {
        "cut.mp4": "corrupt",
        "empty.mp4": "empty",
        "noise.mp4": "corrupt",
        "flipped.mp4": "corrupt",
        "sound.mp4": "audio only",
        "short.mp4": "too short",
        "silent.mp4": "missing caption",
        "good.mp4": "duplicate key",
    }


def test_every_reject_is_named(tmp_path, studio):
    reasons = break_things(tmp_path / "in", studio)
    done = studio.run(tmp_path / "in", tmp_path / "out", max_reject_share=0.9)
    assert {r.source: r.reason.value for r in read_ledger(tmp_path / "out")} == reasons
    assert [s.metadata["source"] for s in ShardReader(tmp_path / "out")] == [
        "good.mov",
        "good.mov",
        "good2.mp4",
        "good2.mp4",
    ]
    assert done.manifest.counts["rejected_by_reason"]["corrupt"] == 3


@pytest.mark.slow
def test_too_many_rejects_stop_with_the_reasons(tmp_path, studio):
    break_things(tmp_path / "in", studio)
    with pytest.raises(
        ValueError, match=r"of 10 rows were rejected \(.*corrupt.*max_reject_share=0.5 allows"
    ) as caught:
        studio.run(tmp_path / "in", tmp_path / "out")
    assert str(tmp_path / "out" / "ledger.jsonl") in str(caught.value)
    assert len(read_ledger(tmp_path / "out")) == 6
    with pytest.raises(ValueError, match="no finished shards"):
        ShardReader(tmp_path / "out")
    studio.run(tmp_path / "in", tmp_path / "out", max_reject_share=0.9)  # the same folder goes on
    studio.run(tmp_path / "in", tmp_path / "straight", max_reject_share=0.9)
    assert studio.contents(tmp_path / "out") == studio.contents(tmp_path / "straight")


def test_nothing_left_is_an_error(tmp_path, studio):
    (tmp_path / "in").mkdir()
    studio.caption(tmp_path / "in" / "a.mp4").touch()
    with pytest.raises(
        ValueError,
        match=r"none of 1 rows became a clip \(1 empty; first a\.mp4: 0 bytes\); .*ledger\.jsonl names each",
    ):
        studio.run(tmp_path / "in", tmp_path / "out", max_reject_share=1.0)


SCRIPT = """
import sys
from vgen.data.prepare import Prepare, prepare
from vgen.data.folder_source import FolderSource
if __name__ == "__main__":
    source, out = FolderSource(path=sys.argv[1]), sys.argv[2]
    wish = Prepare(data=source, out=out, num_frames=8, fps=8.0, size_px=32, num_processes=2, shard_megabytes=0.02)
    prepare(wish, lambda done, total, counts: print(done, flush=True))
"""  # noqa: E501


@pytest.mark.parametrize("rows", [0, 2, 5])
def test_killed_and_resumed_is_as_if_nothing_had_happened(videos, tmp_path, studio, undisturbed, rows):
    """kill -9 after ``rows`` rows, again a moment later, then to the end: the bytes are those of an
    undisturbed run."""
    for patience in (rows, 1):
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(videos), str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            text=True,
        )
        with child:
            for _ in range(patience):
                child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
        if (tmp_path / "out" / "manifest.json").is_file():
            break
    studio.run(videos, tmp_path / "out", shard_megabytes=0.02)
    assert studio.contents(tmp_path / "out") == undisturbed


@pytest.mark.slow
def test_interrupted_at_every_step_is_as_if_nothing_had_happened(
    videos, tmp_path, studio, undisturbed, monkeypatch
):
    """The same at every single flush to the disk, where a kill would hurt most."""
    from vgen.data import files

    real, left = os.replace, 0

    class Killed(BaseException):
        pass

    def replace(*names):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        real(*names)

    monkeypatch.setattr(files.os, "replace", replace)
    for steps in range(100):
        left = steps  # not even one, then one more, then two more ...
        try:
            studio.run(videos, tmp_path / "out", shard_megabytes=0.02, num_processes=1)
        except Killed:
            continue
        break
    assert steps > 5
    assert studio.contents(tmp_path / "out") == undisturbed


def test_a_complete_folder_is_left_alone(videos, tmp_path, studio):
    studio.run(videos, tmp_path / "out")
    before = studio.contents(tmp_path / "out")
    again = studio.run(videos, tmp_path / "out", num_processes=1, deadline_seconds=99.0)
    assert not again.fresh
    assert studio.contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda out: (out / "shard-000001.tar").unlink(),
            "shard-000001.tar was cut, changed or lost; delete the folder",
        ),
        (
            lambda out: (out / "shard-000000.tar").write_bytes(b"short"),
            "shard-000000.tar was cut, changed or lost",
        ),
        (lambda out: (out / "ledger.jsonl").unlink(), "ledger .* is missing or damaged"),
        (
            lambda out: (out / "manifest.json").write_text("{"),
            "is damaged .*delete the folder and prepare it again",
        ),
    ],
)
def test_a_complete_folder_that_was_damaged_is_not_called_complete(videos, tmp_path, studio, harm, message):
    studio.run(videos, tmp_path / "out", shard_megabytes=0.02)
    harm(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        studio.run(videos, tmp_path / "out", shard_megabytes=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["shard-000000.tar", "shard-000001.tar"])
def test_a_shard_lost_between_two_runs_is_made_again(videos, tmp_path, studio, undisturbed, lost):
    def stop(done: int, total: int, counts: object) -> None:
        if (tmp_path / "out" / ".work" / "shard-000001.tar.json").is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(studio.wish(videos, tmp_path / "out", shard_megabytes=0.02), stop)
    (tmp_path / "out" / lost).unlink()
    studio.run(videos, tmp_path / "out", shard_megabytes=0.02)
    assert studio.contents(tmp_path / "out") == undisturbed


def test_how_long_to_wait_for_a_server_is_no_setting_of_the_folder(tmp_path):
    def wish(seconds: float) -> Prepare:
        return Prepare(data=ListingSource(path="l.csv", timeout_seconds=seconds), out=str(tmp_path))

    assert wish(3.0).settings() == wish(30.0).settings()


def test_a_text_longer_than_readers_take_is_rejected(tmp_path, studio):
    (tmp_path / "in").mkdir()
    studio.caption(studio.write_video(tmp_path / "in" / "a.mp4"))
    studio.caption(studio.write_video(tmp_path / "in" / "b.mp4"), "long " * 300_000)
    studio.run(tmp_path / "in", tmp_path / "out")
    [rejection] = read_ledger(tmp_path / "out")
    assert (rejection.source, rejection.reason) == ("b.mp4", Reason.FAILED)
    assert "1,499,999 bytes where 1,048,576 are allowed" in rejection.detail


def test_other_settings_or_files_are_refused(videos, tmp_path, studio):
    studio.run(videos, tmp_path / "out")
    before = studio.contents(tmp_path / "out")
    with pytest.raises(
        ValueError,
        match=r"other settings \(crf was 18 and is 20; size_px was 32 and is 64\); nothing was overwritten",
    ):
        studio.run(videos, tmp_path / "out", size_px=64, crf=20)
    with pytest.raises(ValueError, match="prepared from other files"):
        studio.run(videos / "deep", tmp_path / "out")
    assert studio.contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match="is not empty and was not made by vgen prepare"):
        studio.run(videos, videos)


def test_two_runs_in_one_folder_are_refused(videos, tmp_path, studio):
    def second(*_):
        with pytest.raises(ValueError, match="another vgen prepare is at work"):
            studio.run(videos, tmp_path / "out")

    prepare(studio.wish(videos, tmp_path / "out"), second)


def work(task: str) -> str:
    match task:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(600)
        case "raise":
            raise KeyError(task)
    time.sleep(0.02 if task == "slow" else 0)
    return task.upper()


def test_a_dead_or_hung_worker_is_an_outcome_in_its_place():
    tasks = ["slow", "a", "die", "slow", "b", "hang", "c", "d"]
    outcomes = list(run_ordered(work, tasks, num_processes=2, deadline_seconds=1.0))
    assert outcomes == ["SLOW", "A", Died(-9), "SLOW", "B", Hung(1.0), "C", "D"]


def test_a_defect_in_the_work_is_raised():
    with pytest.raises(RuntimeError, match="KeyError: 'raise'"):
        list(run_ordered(work, ["a", "raise"], num_processes=1, deadline_seconds=9.0))


@spec
class SleepySource(Source):
    """Three rows; the second sleeps as long as a file is absent."""

    alarm: str = ""

    def jobs(self, cut):
        return [SleepyJob(row=i, key=f"row{i}", source=f"row{i}", alarm=self.alarm) for i in range(3)]

    def name(self):
        return "sleepy"


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepyJob(Job):
    alarm: str

    def samples(self, scratch):
        if self.row == 1 and not Path(self.alarm).exists():
            time.sleep(600)
        yield Sample(self.key, np.zeros((1, 8, 8, 3), np.uint8), "a", {"fps": 8.0})


@pytest.mark.slow
def test_a_hung_row_is_named_and_tried_again(tmp_path, studio):
    def wish(out: str, most: float) -> Prepare:
        source = SleepySource(alarm=str(tmp_path / "alarm"))
        return Prepare(
            data=source,
            out=str(tmp_path / out),
            video=Video.npy,
            num_processes=2,
            deadline_seconds=4.0,
            max_reject_share=most,
        )

    prepare(wish("finished", 0.5))
    [rejection] = read_ledger(tmp_path / "finished")
    assert (rejection.source, rejection.reason) == ("row1", Reason.TIMED_OUT)
    assert rejection.detail == "not done after 4 s (deadline_seconds; long videos need more)"
    with pytest.raises(ValueError, match=r"1 timed out; first row1: not done after 4 s"):
        prepare(wish("stopped", 0.0))
    (tmp_path / "alarm").touch()
    prepare(wish("stopped", 0.0))
    assert [s.id for s in ShardReader(tmp_path / "stopped")] == ["row0", "row1", "row2"]


def toybox(out: Path, **settings) -> Prepare:
    source = {k: settings.pop(k) for k in ("num_clips", "seed", "stills") if k in settings}
    return Prepare(data=ToyboxSource(**source), out=str(out), **settings)


def test_the_toybox_is_written_by_the_same_hands(tmp_path, studio):
    settings = {"num_clips": 40, "seed": 3, "num_frames": 3, "size_px": 24}
    for num_processes in (1, 2):
        prepare(toybox(tmp_path / str(num_processes), num_processes=num_processes, **settings))
    assert studio.contents(tmp_path / "1") == studio.contents(tmp_path / "2")
    reader = ShardReader(tmp_path / "1")
    assert len(reader) == 40
    assert len({s.caption for s in reader}) > 20
    sample = reader[37]
    scene = Scene.from_dict(sample.metadata["scene"])
    assert np.array_equal(sample.video, render(scene, 24).video)
    assert (sample.id, sample.metadata["num_frames"], sample.metadata["fps"]) == ("toybox-00000037", 3, 8.0)


def test_a_still_is_a_frame_of_its_clip(tmp_path):
    prepare(toybox(tmp_path / "out", num_clips=12, stills=True, size_px=24, num_processes=1))
    samples = list(ShardReader(tmp_path / "out"))
    assert len({s.metadata["tick"] for s in samples}) > 4
    for sample in samples:
        scene = Scene.from_dict(sample.metadata["scene"])
        assert np.array_equal(sample.video[0], render(scene, 24).video[sample.metadata["tick"]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0.0}, "fps must lie in"),
        ({"size_px": 33}, "size_px must be even for video=mp4"),
        ({"clip_seconds": 1.0, "num_frames": 5}, "is 8 frames, but num_frames=5"),
        ({"num_frames": 0}, "at least one frame"),
        ({"crf": 60}, "crf must lie in 0..51"),
        ({"max_reject_share": 1.5}, "a share in 0..1"),
        ({"num_processes": 0}, "num_processes must be at least 1"),
        ({"shard_megabytes": 0.0}, "shard_megabytes must be positive"),
        ({"deadline_seconds": 0.0}, "deadline_seconds must be positive"),
        ({"clip_seconds": -1.0}, "clip_seconds must be positive"),
        ({"clip_seconds": float("nan")}, "clip_seconds must be positive"),
        ({"shard_megabytes": float("inf")}, "shard_megabytes must be positive and finite"),
    ],
)
def test_mistakes_speak(tmp_path, studio, settings, message):
    with pytest.raises(ValueError, match=message):
        studio.wish(tmp_path, tmp_path, **({"num_frames": None} | settings))


def test_a_clip_may_be_asked_for_by_time(tmp_path, studio):
    assert studio.wish(tmp_path, tmp_path, num_frames=None, clip_seconds=2.5).cut().num_frames == 20
    assert (
        studio.wish(tmp_path, tmp_path, num_frames=None, video=Video.npy, size_px=33).cut().num_frames == 16
    )


@pytest.mark.clips
def test_real_clips_become_shards(real_clips, tmp_path, studio):
    (tmp_path / "in").mkdir()
    for clip in real_clips.glob("*.mp4"):
        (tmp_path / "in" / clip.name).symlink_to(clip)
        (tmp_path / "in" / clip.name).with_suffix(".txt").write_text(clip.stem.replace("-", " "))
    studio.run(tmp_path / "in", tmp_path / "out", num_frames=16, size_px=64)
    assert [s.id for s in ShardReader(tmp_path / "out")] == [
        "man-skiing-0000",
        *(f"rabbit-watermelon-{i:04d}" for i in range(3)),
        "test_video1-0000",
    ]
    assert Manifest.read(tmp_path / "out").counts["rejected"] == 0
