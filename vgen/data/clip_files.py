"""Clips as files that people open: mp4 and GIF with the recipe's card inside, and a grid of frames."""

from __future__ import annotations

import io
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vgen.data.mp4 import encode_mp4

GIF_COLOURS = 256
MOST_PX = 4096
"""Of a small clip's short side once it is enlarged."""


def to_uint8(clip: Tensor) -> np.ndarray:
    """Clip in [-1, 1], f 3 H W, to uint8 f H W 3: rounded, never truncated.

    Raises ValueError where a value is not finite: it would be black without a word.
    """
    lost = int((~clip.isfinite()).sum())
    if lost:
        raise ValueError(
            f"the clip holds {lost:,} values of {clip.numel():,} that are not finite, which no picture can "
            "show; draw it in fp32 (dtype=fp32, trainer.precision=fp32), or with one that has not diverged"
        )
    return ((clip.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def check_least_px(least_px: int) -> None:
    """Refused before minutes are spent on clips that no memory holds so large."""
    if not 0 <= least_px <= MOST_PX:
        raise ValueError(
            f"least_px must lie in 0..{MOST_PX}, got {least_px}; 256 is usual, 0 leaves clips as small as "
            "they are"
        )


def enlarged(video: np.ndarray, least_px: int) -> np.ndarray:
    """uint8 f h w 3, every pixel repeated until the short side has ``least_px``: small clips stay sharp in
    any player."""
    factor = max(1, -(-least_px // min(video.shape[1:3])))
    return video.repeat(factor, 1).repeat(factor, 2)


def write_mp4(path: Path, video: np.ndarray, fps: float = 8.0, card: dict[str, Any] | None = None) -> Path:
    """H.264; the card is JSON in the container's ``comment``."""
    payload = encode_mp4(video, fps, crf=12)
    return _write(path, _commented(payload, json.dumps(card, sort_keys=True)) if card else payload)


def _commented(payload: bytes, comment: str) -> bytes:
    """The same stream in a container that carries a comment."""
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(payload), "r") as source,
        av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        target.metadata["comment"] = comment
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def gif_ms(num_frames: int, fps: float) -> list[int]:
    """How long each frame is shown, in the hundredths of a second that a GIF counts: what one loses in
    rounding, the next gets, so that the clip keeps its length. Never under two, since browsers show one as
    ten."""
    if fps > 50:
        return [20] * num_frames
    ends = [round(100 * i / fps) for i in range(num_frames + 1)]
    return [10 * (end - start) for start, end in pairwise(ends)]


def write_gif(path: Path, video: np.ndarray, fps: float = 8.0, card: dict[str, Any] | None = None) -> Path:
    """One palette for the whole clip, so that colours do not flicker; few colours are kept exactly."""
    frames = _few(video) or _nearest(video)
    out = io.BytesIO()
    comment = {"comment": json.dumps(card, sort_keys=True).encode()} if card else {}
    held = gif_ms(len(frames), fps)
    frames[0].save(
        out, "GIF", save_all=True, append_images=frames[1:], duration=held, loop=0, optimize=False, **comment
    )
    return _write(path, out.getvalue())


def _few(video: np.ndarray) -> list[Image.Image]:
    """Frames with an exact palette; none where there are more colours than a GIF has."""
    keys, place, _ = _colours(video, 0)
    if len(keys) > GIF_COLOURS:
        return []
    colours = np.stack([keys >> 16, keys >> 8 & 255, keys & 255], 1).astype(np.uint8)
    frames = [Image.fromarray(frame) for frame in place.reshape(video.shape[:3]).astype(np.uint8)]
    for frame in frames:
        frame.putpalette(colours.ravel().tolist())
    return frames


def _nearest(video: np.ndarray) -> list[Image.Image]:
    """Frames in 256 colours. Each colour counts by the root of its share, so that shades of a large ground
    do not take the places of what moves on it."""
    _, place, counts = _colours(video, 3)
    sums = np.stack([np.bincount(place, video[..., channel].ravel()) for channel in range(3)], 1)
    means = (sums / counts[:, None]).round().astype(np.uint8)
    weighed = np.repeat(means, np.ceil(np.sqrt(counts)).astype(int), 0)
    sheet = Image.fromarray(weighed[None]).quantize(GIF_COLOURS, kmeans=1, dither=Image.Dither.NONE)
    return [Image.fromarray(frame).quantize(palette=sheet, dither=Image.Dither.NONE) for frame in video]


def _colours(video: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours as numbers without their last ``bits``: each once, which of them each pixel is, and counts."""
    high = (video >> bits).astype(np.uint32)
    keys = (high[..., 0] << 16 | high[..., 1] << 8 | high[..., 2]).ravel()
    return np.unique(keys, return_inverse=True, return_counts=True)


def write_grid(path: Path, video: np.ndarray, card: dict[str, Any] | None = None, columns: int = 8) -> Path:
    """All frames f h w c as one PNG, in reading order; four channels are colours and opacity."""
    num_frames, h, w, channels = video.shape
    rows = -(-num_frames // columns)
    sheet = np.full((rows * columns, h, w, channels), 255, np.uint8)
    sheet[:num_frames] = video
    ordered = sheet.reshape(rows, columns, h, w, channels).transpose(0, 2, 1, 3, 4)
    picture = ordered.reshape(rows * h, columns * w, channels)
    info = PngInfo()
    if card:
        info.add_text("vgen", json.dumps(card, sort_keys=True))
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", pnginfo=info)
    return _write(path, out.getvalue())


def _write(path: Path, payload: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(payload)
    os.replace(temporary, path)
    return path
