"""One sample, and how it lies in a shard: ``key.npy`` or ``key.mp4``, ``key.txt``, ``key.json``, and a member
for each of its fields."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from vgen.data.bounded import TEXT_LIMIT, read_json, read_text, write_npy
from vgen.data.fields import EVERYTHING, FIELDS, VIDEO, Needs, extensions
from vgen.data.mp4 import encode_mp4
from vgen.spec import spec


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
    """``video`` is uint8 ``f h w c``; ``metadata`` is plain JSON data; ``fields`` are arrays by name of
    :data:`vgen.data.fields.FIELDS`, in the axes in which they are stored.

    ``caption`` is None where the sample has none, ``video`` where it was not read.
    """

    id: str
    video: np.ndarray | None
    caption: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        video = self.video
        if video is not None and (
            video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape
        ):
            raise ValueError(
                f"video of sample {self.id!r} must be uint8 f h w 3, got {video.dtype} {video.shape}"
            )
        unknown = sorted(set(self.fields) - set(FIELDS))
        if unknown:
            raise ValueError(
                f"fields of sample {self.id!r} must be of {', '.join(FIELDS)}, got {', '.join(unknown)}"
            )
        for name, array in self.fields.items():
            self._check_length(name, len(array))

    @property
    def num_frames(self) -> int:
        """Stored frames: of the video, or, where it was not read, of the fields; 0 where nothing has any."""
        if self.video is not None:
            return len(self.video)
        lengths = {name: len(array) for name, array in self.fields.items() if FIELDS[name].per_frame}
        sure = [length for name, length in lengths.items() if not FIELDS[name].between]
        return max(sure or lengths.values(), default=0)

    def _check_length(self, name: str, length: int) -> None:
        kind, num = FIELDS[name], self.num_frames
        allowed = [num - 1, num] if kind.between else [1, num] if kind.still else [num]
        if kind.per_frame and length not in allowed:
            raise ValueError(
                f"{name} of sample {self.id!r} must have {' or '.join(map(str, allowed))} entries, as the "
                f"sample has {num} frames, got {length}; write it again frame for frame"
            )


def pack(sample: Sample, encoding: Encoding) -> dict[str, bytes]:
    """The members of a sample by extension; :func:`unpack` is the inverse (exactly so for ``npy``)."""
    members: dict[str, bytes] = {}
    if sample.video is not None and encoding.video is Video.npy:
        members["npy"] = write_npy(sample.video)
    elif sample.video is not None:
        members["mp4"] = encode_mp4(sample.video, sample.metadata.get("fps", 8.0), encoding.crf)
    if sample.caption is not None:
        members["txt"] = sample.caption.encode()
    members["json"] = json.dumps(plain(sample.metadata), ensure_ascii=False, allow_nan=False).encode()
    for extension in ("txt", "json"):
        if len(members.get(extension, b"")) > TEXT_LIMIT:
            raise ValueError(
                f"{sample.id}.{extension} has {len(members[extension]):,} bytes where {TEXT_LIMIT:,} are "
                "allowed"
            )
    encoded = [FIELDS[name].encode(sample.fields[name]) for name in FIELDS if name in sample.fields]
    return members | dict(encoded)


def unpack(key: str, members: Mapping[str, bytes], needs: Needs = EVERYTHING) -> Sample:
    """A sample from its members; each is read by its own bounded reader, none can execute anything.

    Members that ``needs`` does not name stay closed. Raises ValueError where a required one is not there or
    one that is read is malformed.
    """
    there = needs.members(members)
    lacking = [extensions(name) for name in needs.lacking(members)]
    if lacking or "json" not in members:
        wanted = " or ".join(f".{e}" for e in (*lacking, ("json",))[0])
        raise ValueError(f"sample {key!r} has no {wanted}; it has only {', '.join(sorted(members))}")
    metadata = unpack_metadata(key, members["json"])
    caption = _read(f"{key}.txt", members["txt"], read_text) if "caption" in there else None
    decoded = {
        name: (VIDEO if name == "video" else FIELDS[name]).decode(members[e], f"{key}.{e}")
        for name, e in there.items()
        if name != "caption"
    }
    video = decoded.pop("video", None)
    return Sample(key, video, caption, metadata, decoded)


def unpack_metadata(key: str, payload: bytes) -> dict[str, Any]:
    """The metadata of a sample from its ``.json``. Raises ValueError where that is malformed."""
    metadata = _read(f"{key}.json", payload, read_json)
    if not isinstance(metadata, dict):
        raise ValueError(f"{key}.json can't be read: it must hold an object, not a {type(metadata).__name__}")
    return metadata


def _read(where: str, payload: bytes, reader: Callable[[bytes], Any]) -> Any:
    try:
        return reader(payload)
    except ValueError as error:
        raise ValueError(f"{where} can't be read: {error}") from error


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
