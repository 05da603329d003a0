"""One sample, and how it lies in a shard: ``key.npy`` or ``key.mp4``, ``key.txt``, ``key.json``."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from vgen.data.mp4 import decode_mp4, encode_mp4
from vgen.spec import spec

TEXT_LIMIT = 1 << 20
READABLE = ("npy", "mp4", "txt", "json")
"""The only extensions that are ever decoded."""


class Video(Enum):
    """How clips are stored. Members are spelt as one types them, because Hydra reads an enum by its names."""

    mp4 = "mp4"
    npy = "npy"


@spec
class Encoding:
    """``crf`` is x264's: 0 is lossless but for the colour planes, 18 hardly visible, 51 worst; ``npy`` is
    lossless and large."""

    video: Video = Video.mp4
    crf: int = 18

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must lie in 0..51 (x264's scale, smaller is better), got {self.crf}")


@dataclass(frozen=True, slots=True)
class Sample:
    """``video`` is uint8 ``f h w c``; ``metadata`` is plain JSON data."""

    id: str
    video: np.ndarray
    caption: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (
            self.video.dtype != np.uint8
            or self.video.ndim != 4
            or self.video.shape[-1] != 3
            or 0 in self.video.shape
        ):
            raise ValueError(
                f"video of sample {self.id!r} must be uint8 f h w 3, got {self.video.dtype} "
                f"{self.video.shape}"
            )


def pack(sample: Sample, encoding: Encoding) -> dict[str, bytes]:
    """The members of a sample by extension; :func:`unpack` is the inverse (exactly so for ``npy``)."""
    if encoding.video is Video.npy:
        file = io.BytesIO()
        np.lib.format.write_array(
            file, np.ascontiguousarray(sample.video), version=(1, 0), allow_pickle=False
        )
        video = file.getvalue()
    else:
        video = encode_mp4(sample.video, sample.metadata.get("fps", 8.0), encoding.crf)
    metadata = json.dumps(plain(sample.metadata), ensure_ascii=False, allow_nan=False)
    members = {encoding.video.value: video, "txt": sample.caption.encode(), "json": metadata.encode()}
    _check_texts(sample.id, members)
    return members


def unpack(key: str, members: Mapping[str, bytes]) -> Sample:
    """A sample from its members; each is read by its own bounded reader, none can execute anything."""
    _check_texts(key, members)
    try:
        extension = "txt"
        caption = members["txt"].decode("utf-8")
        extension = "json"
        metadata = json.loads(members["json"])
        if not isinstance(metadata, dict):
            raise ValueError(f"it must hold an object, not a {type(metadata).__name__}")
        extension = next((e for e in ("npy", "mp4") if e in members), "npy or .mp4")
        video = _video(members)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}.{extension} can't be read: {error}") from error
    return Sample(key, video, caption, metadata)


def _check_texts(key: str, members: Mapping[str, bytes]) -> None:
    for extension in ("txt", "json"):
        if extension not in members:
            raise ValueError(f"sample {key!r} has no .{extension}; it has {', '.join(sorted(members))}")
        if len(members[extension]) > TEXT_LIMIT:
            raise ValueError(
                f"{key}.{extension} has {len(members[extension]):,} bytes where {TEXT_LIMIT:,} are allowed"
            )


def _video(members: Mapping[str, bytes]) -> np.ndarray:
    if "npy" in members:
        return np.lib.format.read_array(io.BytesIO(members["npy"]), allow_pickle=False)
    if "mp4" in members:
        return decode_mp4(members["mp4"])
    raise ValueError(f"the sample has only {', '.join(sorted(members))}")


def plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, dates and other foreign things their
    text."""
    match value:
        case dict():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case float():
            return value if math.isfinite(value) else None
        case Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case np.generic() | np.ndarray():
            return plain(value.tolist())
        case _:
            return str(value)
