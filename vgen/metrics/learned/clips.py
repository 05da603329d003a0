"""What is measured: videos, and whatever a metric may compare them with. Everything is checked here, once,
before a network runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_VIDEO = "must be uint8, or float in 0..1, of shape f h w 3 (RGB)"


@dataclass(slots=True, kw_only=True)
class Clips:
    """Fields that are not None hold one entry per video, except ``references``, a set of any size.

    ``videos`` and ``sources`` (what an edit started from, or the true video) and ``references`` (real
    videos): uint8 f h w 3, or float in 0..1, which is rounded. ``masks``: bool f h w, true where masked
    metrics look. ``flow``: float32 f-1 h w 2, in pixels (x, y), from each frame to the next; ``hidden``: bool
    f-1 h w, true where the next frame shows something else there. ``subjects``: uint8 n h w 3, pictures of
    who must be recognised. ``codec`` says what the frames went through before (``raw``, ``h264 crf 18``,
    ...), ``seed`` with which seed they were drawn, where that is known. Raises ValueError for anything that
    does not fit together.
    """

    videos: Sequence[np.ndarray]
    prompts: Sequence[str] | None = None
    sources: Sequence[np.ndarray] | None = None
    source_prompts: Sequence[str] | None = None
    masks: Sequence[np.ndarray] | None = None
    flow: Sequence[np.ndarray] | None = None
    hidden: Sequence[np.ndarray] | None = None
    references: Sequence[np.ndarray] | None = None
    subjects: Sequence[np.ndarray] | None = None
    codec: str = "raw"
    seed: int | None = None

    def __post_init__(self) -> None:
        if len(self.videos) == 0:
            raise ValueError(
                "there is nothing to measure: the list of videos is empty; check the folder that it was "
                "read from"
            )
        for name in ("videos", "sources", "references", "subjects"):
            given = getattr(self, name)
            if given is not None:
                setattr(self, name, [as_uint8(video, f"{name}[{i}]") for i, video in enumerate(given)])
        for name in ("videos", "sources", "references"):
            self._same_shape(name)
        for name in ("prompts", "sources", "source_prompts", "masks", "flow", "hidden", "subjects"):
            self._one_each(name)
        f, h, w, _ = self.videos[0].shape
        self._arrays("masks", (f, h, w), np.bool_)
        self._arrays("hidden", (f - 1, h, w), np.bool_)
        self._arrays("flow", (f - 1, h, w, 2), np.floating)

    @property
    def num(self) -> int:
        return len(self.videos)

    @property
    def num_frames(self) -> int:
        return len(self.videos[0])

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width."""
        return self.videos[0].shape[1:3]

    def given(self, name: str) -> Sequence[Any]:
        """The entries of a field that the caller has made sure of (a plug-in's ``needs`` are)."""
        entries = getattr(self, name)
        assert entries is not None, f"{name} was not given"
        return entries

    def digest(self, names: Iterable[str]) -> str:
        """sha256 of the named fields, in the order given: contents, shapes and types."""
        total = hashlib.sha256()
        for name in names:
            entries = getattr(self, name)
            total.update(f"{name} {0 if entries is None else len(entries)}\n".encode())
            for entry in entries or ():
                total.update(_bytes(entry))
        return total.hexdigest()

    def _one_each(self, name: str) -> None:
        given = getattr(self, name)
        if (
            name.endswith("prompts")
            and given is not None
            and (isinstance(given, str) or not all(isinstance(text, str) for text in given))
        ):
            raise ValueError(
                f"{name} must be a list of strings, one for each video, got {given!r:.60}; put a single "
                "prompt into a list"
            )
        if given is not None and len(given) != self.num:
            raise ValueError(
                f"{name} must have one entry for each of the {self.num} videos, got {len(given)}; leave it "
                "out or complete it"
            )

    def _same_shape(self, name: str) -> None:
        wanted = self.videos[0].shape[:3]
        for i, video in enumerate(getattr(self, name) or ()):
            if video.shape[:3] != wanted:
                raise ValueError(
                    "all clips must have the same frames and size, since metrics change with both, got "
                    f"{_shape(wanted)} in videos[0] and "
                    f"{_shape(video.shape[:3])} in {name}[{i}]; cut or resize them first"
                )

    def _arrays(self, name: str, shape: tuple[int, ...], kind: type) -> None:
        for i, array in enumerate(getattr(self, name) or ()):
            if array.shape != shape or not np.issubdtype(array.dtype, kind) or not np.isfinite(array).all():
                raise ValueError(
                    f"{name}[{i}] must be finite {'bool' if kind is np.bool_ else 'float'} of shape "
                    f"{' '.join(map(str, shape))}, "
                    f"got {array.dtype} of {' '.join(map(str, array.shape))}"
                )


def as_uint8(video: Any, name: str) -> np.ndarray:
    """Frames as uint8 f h w 3. Floats are rounded (truncation would darken every frame by half a step)."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(
            f"{name} {_VIDEO}, got shape {' '.join(map(str, video.shape)) or 'of a single number'}; move "
            "the axes first"
        )
    if video.dtype == np.uint8:
        return video
    if not np.issubdtype(video.dtype, np.floating):
        raise ValueError(f"{name} {_VIDEO}, got {video.dtype}; convert it to uint8")
    low, high = float(video.min()), float(video.max())
    if not (low >= 0 and high <= 1):  # also true of NaN
        remedy = (
            "it looks like [-1, 1]: (x + 1) / 2" if low >= -1 and high <= 1 else "divide by its full scale"
        )
        raise ValueError(f"{name} {_VIDEO}, got {video.dtype} from {low:.4g} to {high:.4g}; {remedy}")
    return np.rint(video.astype(np.float32) * 255).astype(np.uint8)


def _bytes(entry: Any) -> bytes:
    if isinstance(entry, str):
        return f"text {len(entry.encode())}\n{entry}".encode()
    return f"{entry.dtype.str} {entry.shape}\n".encode() + np.ascontiguousarray(entry).tobytes()


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} frames of {shape[2]}×{shape[1]}"
