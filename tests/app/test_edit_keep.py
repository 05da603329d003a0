"""``keep=[audio,aspect,fps]``: what an edit keeps of a real mp4 that has sound."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vgen.app.edit import EditRun, edit
from vgen.app.edit_run import Keep
from vgen.data.clip_files import write_mp4
from vgen.data.decode import centred
from vgen.data.one_clip import source_facts
from vgen.data.sound import add_sound
from vgen.diffusion.inversion import NullText
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.codef import CoDeF
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt

FPS, RATE, FRAMES = 12, 16_000, 24
ALL = [Keep.AUDIO, Keep.ASPECT, Keep.FPS]
ASKED = {
    "source": "a large red circle on a black background",
    "target": "a large blue circle on a black background",
    "sampling": SamplingOverrides(num_steps=2, guidance=2.0),
}
FAST = PromptToPrompt(null_text=NullText(inner_steps=0))


def filmed(path: Path, sound: str = "aac") -> Path:
    """Two seconds of 12 frames a second, 96 x 64: a red square that goes right, and a tone that rises from 0
    to 2 in loudness."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        audio = out.add_stream(sound, rate=RATE, layout="mono") if sound else None
        for i in range(FRAMES):
            picture = np.zeros((64, 96, 3), np.uint8)
            picture[20:44, 8 + 2 * i : 32 + 2 * i, 0] = 255
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            seconds = np.arange(2 * RATE) / RATE
            wave = (0.4 * seconds * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
            layout = audio.codec_context.format.name
            shaped = wave[None] if layout == "fltp" else (wave[None] * 32767).astype(np.int16)
            for start in range(0, 2 * RATE, 1000):
                part = np.ascontiguousarray(shaped[:, start : start + 1000])
                frame = av.AudioFrame.from_ndarray(part, layout, "mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def heard(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(file.streams.audio[0])])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filmed(tmp_path_factory.mktemp("clip") / "red.mp4")


@pytest.fixture(scope="module")
def kept(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second second of it, edited."""
    run = EditRun(method=FAST, video=clip, num_frames=6, start_seconds=1.0, keep=ALL, **ASKED)
    return edit(run).save(tmp_path_factory.mktemp("kept") / "out")


def test_rate_and_aspect_are_the_sources(kept: Path) -> None:
    with av.open(str(kept / "edited.mp4")) as file:
        video = file.streams.video[0]
        assert video.average_rate == FPS
        assert Fraction(video.width, video.height) == Fraction(96, 64)
        assert sum(1 for _ in file.decode(video)) == 6
        assert json.loads(file.metadata["comment"])["fps"] == FPS, "the card is where it was"


def test_the_sound_is_that_of_the_frames_that_were_edited(clip: Path, kept: Path) -> None:
    """Half a second from the second one on, whose loudness grows from .4 to .6; not encoded anew."""
    sound = heard(kept / "edited.mp4")
    assert len(sound) / RATE == pytest.approx(0.5, abs=0.15)
    ends = [np.abs(part).max() for part in (sound[2500:4000], sound[6000:7500])]
    assert 0.4 < ends[0] < ends[1] < 0.65
    with av.open(str(clip)) as a, av.open(str(kept / "edited.mp4")) as b:
        theirs, ours = ({bytes(p) for p in f.demux(f.streams.audio[0]) if p.size} for f in (a, b))
    assert ours <= theirs


def test_without_keep_nothing_changes(clip: Path, tmp_path: Path) -> None:
    out = edit(EditRun(method=FAST, video=clip, num_frames=4, **ASKED)).save(tmp_path / "out")
    with av.open(str(out / "edited.mp4")) as file:
        assert not file.streams.audio
        assert file.streams.video[0].average_rate == 8
        assert file.streams.video[0].width == file.streams.video[0].height


def test_attention_is_kept_and_blended_in_a_rectangle(clip: Path) -> None:
    """What is stored is what arithmetic said, and the mask has the clip's shape."""
    run = EditRun(method=FateZero(), video=clip, num_frames=3, keep=[Keep.ASPECT], blend=["circle"], **ASKED)
    done = edit(run)
    assert done.video.shape == done.source.shape == done.mask.shape == (3, 64, 96, 3)


def test_a_turned_picture_keeps_its_proportions() -> None:
    assert centred((100, 60), 1.0) == (20, 0, 80, 60)
    assert centred((100, 60), 2.0) == (0, 5, 100, 55)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"method": CoDeF(), "adapter": "x"}, r"method=codef shows squares, .* got keep=\[aspect\]"),
        ({"video": "", "method": FAST}, r"keep=\[aspect\] keeps what a file has, and none is given"),
    ],
)
def test_what_cannot_be_kept(clip: Path, how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit(EditRun(**{"video": clip, "keep": [Keep.ASPECT], **how, "num_frames": 2}))


def test_a_clip_without_sound_or_with_another_is_refused(tmp_path: Path) -> None:
    silent, raw = filmed(tmp_path / "silent.mp4", ""), filmed(tmp_path / "raw.mkv", "pcm_s16le")
    for path, message in (
        (silent, "which has none; leave audio out"),
        (raw, "pcm_s16le, which an mp4 does not hold"),
    ):
        with pytest.raises(ValueError, match=message):
            edit(EditRun(method=FAST, video=path, num_frames=2, keep=[Keep.AUDIO], **ASKED))


def test_sound_is_put_beneath_where_the_video_is_shorter_or_longer(clip: Path, tmp_path: Path) -> None:
    for num, seconds in ((6, 0.5), (48, 1.0)):
        made = write_mp4(tmp_path / f"{num}.mp4", np.zeros((num, 64, 96, 3), np.uint8), float(FPS))
        add_sound(made, clip, 1.0)
        assert len(heard(made)) / RATE == pytest.approx(seconds, abs=0.15)
    assert source_facts(clip).fps == FPS
    assert source_facts(clip).aspect == pytest.approx(1.5)
