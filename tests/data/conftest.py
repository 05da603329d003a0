"""Real video files, made here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vgen.data.folder_source import FolderSource
from vgen.data.prepare import Prepare, Prepared, prepare


def picture(seconds: float, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 ``h w c``: a bar that crosses the picture in four seconds, so that a frame tells its time."""
    image = np.full((height, width, 3), 30, np.uint8)
    x = int(seconds / 4 * width)
    image[:, max(0, x - 3) : x + 3] = (230, 120, 40)
    return image


def write_video(
    path: Path,
    fps: int = 24,
    seconds: float = 2.0,
    *,
    width: int = 96,
    height: int = 64,
    num_frames: int | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(round(fps * seconds) if num_frames is None else num_frames):
            frame = av.VideoFrame.from_ndarray(picture(i / fps, width, height), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def caption(path: Path, text: str = "a bar moves right") -> Path:
    path.with_suffix(".txt").write_text(text)
    return path


def wish(folder: Path, out: Path, **settings: object) -> Prepare:
    usual = {"num_frames": 8, "fps": 8.0, "size_px": 32, "num_processes": 2, "deadline_seconds": 60.0}
    return Prepare(data=FolderSource(path=str(folder)), out=str(out), **{**usual, **settings})


def run(folder: Path, out: Path, **settings: object) -> Prepared:
    return prepare(wish(folder, out, **settings))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


class Studio:
    """What the tests make and look at; a fixture, because test modules can't import one another."""

    picture = staticmethod(picture)
    write_video = staticmethod(write_video)
    write_audio = staticmethod(write_audio)
    caption = staticmethod(caption)
    wish = staticmethod(wish)
    run = staticmethod(run)
    contents = staticmethod(contents)


@pytest.fixture(scope="session")
def studio() -> type[Studio]:
    return Studio


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sound videos with captions, one of them long, in two folders."""
    folder = tmp_path_factory.mktemp("videos")
    for i, (fps, seconds) in enumerate([(24, 2.0), (30, 1.0), (60, 1.0), (25, 3.5), (24, 1.2)]):
        caption(write_video(folder / f"clip{i}.mp4", fps, seconds), f"bar number {i}")
    caption(write_video(folder / "deep" / "clip0.mp4"), "a bar in a folder below")
    return folder


@pytest.fixture
def real_clips() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "clips" / "video"
    if not folder.is_dir():
        pytest.skip(f"the real clips are not part of the repository and not at {folder}")
    return folder
