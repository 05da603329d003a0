"""Real video files to clips: frames by time, one square, one thread, no damaged frame."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any, ClassVar, cast

import av
import numpy as np
from PIL import Image

from vgen.data.ledger import Reason, Rejected
from vgen.data.mp4 import TooLarge, has_alpha, strict_frames, to_rgb
from vgen.data.segments import Segment, SegmentUnit
from vgen.spec import spec

SLACK_SECONDS = 1e-4
_HDR = {16: "pq", 18: "hlg"}
"""Transfer curves of high dynamic range; their pictures are stored as they are, not toned to the usual range,
and say so."""
SANDBOX = {
    # A playlist or a concat script under the name of a video could make FFmpeg read other files or addresses.
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,h264,hevc,mp3,wav,aac,flac",  # noqa: E501
}


@spec
class Cut:
    """How a video becomes clips of ``num_frames`` at ``fps``, each ``size_px`` square out of its middle."""

    pads: ClassVar[bool] = False
    fps: float = 8.0
    num_frames: int = 16
    size_px: int = 256

    def __post_init__(self) -> None:
        if not 0.01 <= self.fps <= 240:
            raise ValueError(f"fps must lie in 0.01..240, got {self.fps}")
        if self.num_frames < 1:
            raise ValueError(f"a clip needs at least one frame, got num_frames={self.num_frames}")
        if not 8 <= self.size_px <= 4096:
            raise ValueError(f"size_px must lie in 8..4096, got {self.size_px}")


@spec
class PaddedCut(Cut):
    """As :class:`Cut`, with the whole picture in its square, between black bars."""

    pads: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Clip:
    """``video`` uint8 ``f h w c``, and what is known of where it came from."""

    video: np.ndarray
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame, when it appears (seconds after the first) and how long it nominally stays."""

    seconds: float
    duration: float
    frame: av.VideoFrame


def clips(
    path: Path,
    cut: Cut,
    skip: int = 0,
    segment: Segment | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Clip]:
    """Clip after clip of a video or of a segment of it, from frame ``skip`` of those at the rate asked for;
    of ``size`` (height, width) where it is given, else square.

    Raises :class:`Rejected` if the file is anything but sound, be it at the last frame that is needed.
    """
    try:
        if not path.is_file():
            raise Rejected(Reason.MISSING_FILE, "no such file")
    except OSError as error:  # a name that no file can have, a folder that may not be looked into
        raise Rejected(Reason.MISSING_FILE, error.strerror or str(error)) from error
    if path.stat().st_size == 0:
        raise Rejected(Reason.EMPTY, "0 bytes")
    try:
        with av.open(str(path.absolute()), container_options=SANDBOX, metadata_errors="replace") as container:
            sides = size or (cut.size_px, cut.size_px)
            yield from _clips(_video_stream(container), cut, skip, segment, sides)
    except TooLarge as error:
        raise Rejected(Reason.TOO_LARGE, str(error)) from error
    except av.error.EOFError as error:  # nothing but headers
        raise Rejected(Reason.NO_FRAMES, "it ends before the first frame") from error
    except av.FFmpegError as error:
        raise Rejected(Reason.CORRUPT, error.strerror or str(error)) from error


def _clips(
    stream: av.VideoStream, cut: Cut, skip: int, segment: Segment | None, size: tuple[int, int]
) -> Iterator[Clip]:
    frames: list[np.ndarray] = []
    num_sampled = 0
    began = 0.0
    last: tuple[Shown, np.ndarray] | None = None
    for shown, seconds in _sampled(stream, cut.fps, segment):
        began = seconds if num_sampled == 0 else began
        num_sampled += 1
        if num_sampled <= skip:
            continue
        if last is None or last[0] is not shown:  # a slow source shows one frame several times
            last = shown, _sized(shown.frame, _pixel_aspect(stream), size, cut.pads)
        frames.append(last[1])
        if len(frames) == cut.num_frames:
            yield Clip(
                np.stack(frames),
                _facts(shown.frame, stream, cut, began + (num_sampled - cut.num_frames) / cut.fps),
            )
            frames = []
    if num_sampled < skip + cut.num_frames:
        after = f" after the first {skip / cut.fps:.2f} s" if skip else ""
        raise Rejected(
            Reason.TOO_SHORT,
            f"{num_sampled / cut.fps:.2f} s, "
            f"a clip needs {cut.num_frames / cut.fps:.2f} s ({cut.num_frames} frames at {cut.fps:g} "
            f"fps){after}",
        )


def _sampled(stream: av.VideoStream, fps: float, segment: Segment | None) -> Iterator[tuple[Shown, float]]:
    """The shots of a video or of a segment at a rate, and when the first of them is, in seconds of the
    file."""
    shots: Iterator[Shown] = _shown(stream)
    start, end = 0.0, math.inf
    if segment is not None and segment.unit is SegmentUnit.FRAMES:
        last = None if segment.end is None else int(segment.end)
        shots = islice(shots, int(segment.start), last)
        first = next(shots, None)
        if first is None:
            return
        start, shots = first.seconds, chain([first], shots)
    elif segment is not None:
        start, end = segment.start, math.inf if segment.end is None else segment.end
        shots = takewhile(lambda shot: shot.seconds < end - SLACK_SECONDS, shots)
    for number, shot in enumerate(at_rate(shots, fps, start)):
        if start + number / fps >= end - SLACK_SECONDS:
            return
        yield shot, start


def at_rate(shots: Iterable[Shown], fps: float, start: float = 0.0) -> Iterator[Shown]:
    """The shot on screen at start, start + 1/fps ... seconds, to the nearest: a change counts from half a
    frame before it.

    So sources of 24, 30 and 60 fps of one scene differ by at most half a frame of the slowest. A frame is the
    shortest gap so far, so that a picture held for long, which recordings of screens have, stays held.
    """
    before: Shown | None = None
    count, shortest = 0, math.inf
    for shot in shots:
        if before is not None:
            gap = shot.seconds - before.seconds
            if gap < 0:
                raise Rejected(Reason.CORRUPT, f"time runs backwards at {before.seconds:.3f} s")
            shortest = min(shortest, gap) if gap else shortest
            change = shot.seconds - min(gap, shortest) / 2
            while start + count / fps < change - SLACK_SECONDS:
                yield before
                count += 1
        before = shot
    while before is not None and start + count / fps < before.seconds + before.duration - SLACK_SECONDS:
        yield before
        count += 1


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if streams:
        return streams[0]
    if container.streams.audio:
        raise Rejected(Reason.AUDIO_ONLY, "it has sound but no video stream")
    raise Rejected(Reason.NO_FRAMES, "it has neither a video nor a sound stream")


def _shown(stream: av.VideoStream) -> Iterator[Shown]:
    """Every frame with its time, and the check that the file keeps what its header promises."""
    rate = stream.average_rate or stream.guessed_rate or 25
    counted = (
        stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    )  # AVI stores no time, only an order of decoding
    first = end = None
    for number, frame in enumerate(strict_frames(stream)):
        base = float(frame.time_base or 0)
        time = number / float(rate) if frame.pts is None or counted else frame.pts * base
        first = time if first is None else first
        duration = frame.duration * base if frame.duration else 1 / float(rate)
        end = time - first + duration
        yield Shown(time - first, duration, frame)
    if end is None:
        raise Rejected(Reason.NO_FRAMES, "its video stream holds no frame")
    promised = None if counted else _promised_seconds(stream, first or 0.0)
    promised = promised or end
    if promised - end > max(
        2 / float(rate), 0.02 * promised
    ):  # a file cut between two packets decodes without a complaint
        raise Rejected(
            Reason.CORRUPT, f"it ends after {end:.2f} s where its header promises {promised:.2f} s"
        )


def _promised_seconds(stream: av.VideoStream, first: float) -> float | None:
    """How long the header says the video is: the stream's own word, Matroska's tag of it, or the file's word
    where nothing else is in it.

    None for what makes no promise (MPEG transport and program streams, GIF, files written to a pipe): a cut
    can't be noticed there. Matroska says when the video ends; it begins ``first`` seconds into the file.
    """
    container = stream.container
    if container.format.name in ("mpegts", "mpeg"):  # FFmpeg's own guess from the last time stamps
        return None
    if stream.duration:
        return stream.duration * float(stream.time_base or 0)
    if not container.format.name.startswith("matroska"):
        return None
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)\0*", stream.metadata.get("DURATION", ""))
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - max(first, 0.0)
    assert isinstance(container, av.container.InputContainer)
    return (
        container.duration / av.time_base - max(first, 0.0)
        if container.duration and len(container.streams) == 1
        else None
    )


def _facts(frame: av.VideoFrame, stream: av.VideoStream, cut: Cut, start_seconds: float) -> dict[str, Any]:
    width, height = frame.width * _pixel_aspect(stream), frame.height
    aspect = height / width if _turns(frame)[1] % 2 else width / height
    noted: dict[str, Any] = {"source_hdr": _HDR[frame.color_trc]} if frame.color_trc in _HDR else {}
    if frame.interlaced_frame:
        noted["source_interlaced"] = True
    if has_alpha(frame):
        noted["source_alpha"] = "on white"
    elif stream.metadata.get("alpha_mode") == "1":  # a second picture beside each, which FFmpeg leaves closed
        noted["source_alpha"] = "dropped"
    return {
        "fps": cut.fps,
        "num_frames": cut.num_frames,
        "start_seconds": round(start_seconds, 6),
        "aspect": round(aspect, 6),
        "source_width_px": frame.width,
        "source_height_px": frame.height,
        "source_fps": round(float(stream.average_rate or 0), 4),
        **noted,
    }


def _pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a pixel over its height: 1 in nearly all files, not in those made for discs and broadcast."""
    return float(stream.sample_aspect_ratio or 1)


def _turns(frame: av.VideoFrame) -> tuple[bool, int]:
    """Whether a player mirrors the picture left to right, and how many quarters it then turns it against the
    clock."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, 0
    a, b, _, c, d = (
        np.frombuffer(cast(bytes, data), np.int32)[:5] / 65536.0
    )  # x goes to (a, b), y to (c, d); y points down
    mirrored = bool(a * d - b * c < 0)
    if mirrored:
        a, b = -a, -b
    return mirrored, round(-math.degrees(math.atan2(b, a)) / 90) % 4


def _sized(
    frame: av.VideoFrame, pixel_aspect: float, size: tuple[int, int], pads: bool = False
) -> np.ndarray:
    """uint8 ``h w c`` of ``size`` (height, width): the picture as a player shows it, as much of its centre as
    has these proportions or, padded to a square, all of it; antialiased."""
    image = Image.fromarray(to_rgb(frame))
    mirrored, turns = _turns(frame)
    tall, wide = size[::-1] if turns % 2 else size
    if pads:
        small = padded(image, wide, pixel_aspect)
    else:
        box = centred(image.size, wide / tall / pixel_aspect)
        small = image.resize((wide, tall), Image.Resampling.BICUBIC, box=box)
    picture = np.asarray(small)
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if mirrored else picture, turns))


def centred(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """The largest box of ``aspect`` (width over height) in the middle of a picture of ``size`` (width,
    height): left, top, right and bottom in pixels."""
    width, height = size
    half_width, half_height = min(width, height * aspect) / 2, min(width / aspect, height) / 2
    return width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of its video: ``aspect`` is width over height as a player shows it, ``fps`` the mean
    rate."""

    aspect: float
    fps: float


def facts_of(path: Path) -> Facts:
    """Of the first frame. Raises :class:`Rejected` where there is none."""
    first = next(clips(path, Cut(fps=240, num_frames=1, size_px=8)))
    return Facts(first.metadata["aspect"], first.metadata["source_fps"])


def padded(image: Image.Image, size_px: int, pixel_aspect: float = 1.0) -> Image.Image:
    """The whole picture in a square of ``size_px``, between black bars; its pixels are ``pixel_aspect`` times
    as wide as high."""
    wide = image.width * pixel_aspect
    share = size_px / max(wide, image.height)
    width, height = (max(1, round(length * share)) for length in (wide, image.height))
    out = Image.new(image.mode, (size_px, size_px))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    out.paste(small, ((size_px - width) // 2, (size_px - height) // 2))
    return out
