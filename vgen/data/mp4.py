"""H.264 in memory, so that the same frames give the same bytes: on one thread, and by the code paths of x264
that all processors share.

Those that it chooses for the processor at hand read memory that nobody wrote: at 64 and 160 px the bytes
changed from run to run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

MAX_BYTES = 2 << 30
"""Decoded size that one clip may reach: an mp4 of a few kilobytes can hold hours of black."""
MOST_PIXELS = 8192 * 4320
"""Of one frame: the largest that cameras make. A frame of 8192 x 8192 takes a few kilobytes in a file."""


class TooLarge(ValueError):
    """Frames that are not decoded because of their size."""


def encode_mp4(video: np.ndarray, fps: float, crf: int) -> bytes:
    """uint8 ``f h w c`` to an mp4 that every browser plays (H.264, yuv420p)."""
    num_frames, height, width, _ = video.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"H.264 in yuv420p needs even sides, got {width}x{height}; choose an even size_px or video=npy"
        )
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)
        options = {
            "crf": str(crf),
            "preset": "medium",
            "flags": "+bitexact",
            "x264-params": "cpu-independent=1",
        }
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace, stream.codec_context.color_range = (
            6,
            ColorRange.MPEG,
        )  # 6: SMPTE 170M, what the matrix below is
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(video[i]), "rgb24")
            frame = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
            )
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def decode_mp4(payload: bytes) -> np.ndarray:
    """Every frame of a clip that :func:`encode_mp4` or another tool made: uint8 ``f h w c``."""
    frames: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(payload), format="mp4") as container:
            for frame in strict_frames(container.streams.video[0]):
                frames.append(to_rgb(frame))
                if len(frames) * frames[0].nbytes > MAX_BYTES:
                    raise ValueError(f"it decodes to more than {MAX_BYTES:,} bytes")
    except av.FFmpegError as error:
        raise ValueError(f"it is damaged, cut off or no mp4 ({error.strerror})") from error
    except IndexError as error:
        raise ValueError("it holds no video stream, as of a file that was cut off") from error
    if not frames:
        raise ValueError("it holds no frame")
    return np.stack(frames)


def strict_frames(stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in order of showing; a damaged one raises ``InvalidDataError`` where FFmpeg would paint over it
    in silence.

    A stream that was joined in the middle, as recordings and cuts without encoding are, begins with its first
    whole picture, as in a player: what leans on pictures before that is left out.
    """
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    _refuse_huge(stream.codec_context)
    stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
    container = stream.container
    assert isinstance(container, av.container.InputContainer)
    keyed, joined, begun = False, False, False
    key_pts: int | None = None
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise av.error.InvalidDataError(0, "a damaged packet")
        if packet.size and not begun:
            leads = (
                key_pts is not None and packet.pts is not None and packet.pts < key_pts
            )  # shown before the first whole picture
            if leads or not (keyed or packet.is_keyframe):
                joined = True
                continue
            if not keyed:
                keyed, key_pts = True, packet.pts
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if joined and not begun:  # H.264 misses the pictures before its start once more
                continue
            raise
        for frame in frames:
            if frame.is_corrupt:
                raise av.error.InvalidDataError(0, "a damaged frame")
            begun = True
            yield frame


def _refuse_huge(codec: av.VideoCodecContext) -> None:
    if codec.width * codec.height > MOST_PIXELS:
        raise TooLarge(
            f"its frames have {codec.width:,} x {codec.height:,} pixels where {MOST_PIXELS:,} are allowed "
            "(8192 x 4320)"
        )


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """uint8 ``h w c``. Frames that do not name their matrix are read as players do: BT.709 from 720 lines on,
    BT.601 below."""
    unnamed = frame.colorspace in (0, 2)  # 0 is RGB, where the matrix is not used
    matrix = (Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601) if unnamed else None
    form = "rgba" if has_alpha(frame) else "rgb24"
    picture = frame.reformat(
        format=form, src_colorspace=matrix, src_color_range=frame.color_range, threads=1
    ).to_ndarray()
    return on_white(picture) if form == "rgba" else picture


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether pixels of the frame can be transparent."""
    return any(part.is_alpha for part in frame.format.components) or frame.format.name == "pal8"


def on_white(picture: np.ndarray) -> np.ndarray:
    """uint8 ``... 4`` (red, green, blue, opacity) to ``... 3``: what is transparent is white, in clips as in
    pictures."""
    if (picture[..., 3] == 255).all():
        return np.ascontiguousarray(picture[..., :3])
    opacity = picture[..., 3:].astype(np.uint32)
    mixed = picture[..., :3] * opacity + 255 * (255 - opacity)
    return ((mixed + 127) // 255).astype(np.uint8)
