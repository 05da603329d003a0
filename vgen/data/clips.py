"""Clips for training: a window of frames out of a stored sample, as a pure function of (seed, sample id,
epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vgen.data.fields import FIELDS, VIDEO, Needs
from vgen.data.one_clip import OneClip
from vgen.data.order import StatelessSampler
from vgen.data.reader import ShardReader
from vgen.spec import spec


@spec
class Window:
    """``num_frames`` frames, ``stride_frames`` apart; ``flip`` mirrors half of the clips (never where
    captions name a side).

    ``coarse_share`` of the training batches keep every second frame only: half as many frames at twice the
    stride, so that one motion module serves both lengths.
    """

    num_frames: int = 16
    stride_frames: int = 1
    flip: bool = False
    coarse_share: float = 0.0

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.stride_frames < 1:
            raise ValueError(
                f"a window needs at least 1 frame and stride 1, got num_frames={self.num_frames} "
                f"stride_frames={self.stride_frames}"
            )
        if not 0 <= self.coarse_share <= 1:
            raise ValueError(
                f"data.window.coarse_share is a share of the batches, 0 to 1, got {self.coarse_share}"
            )

    def span(self) -> int:
        """Stored frames that a window covers."""
        return (self.num_frames - 1) * self.stride_frames + 1

    def cut(self, num_stored: int, where: str, rng: np.random.Generator) -> tuple[slice, bool]:
        """The frames to take, and whether to mirror. A clip that is too short is an error, never a silently
        smaller stride."""
        if num_stored < self.span():
            raise ValueError(
                f"{where} has {num_stored} frames where {self.num_frames} at stride {self.stride_frames} "
                f"need {self.span()}; "
                "set data.window.num_frames or data.window.stride_frames lower, or prepare longer clips"
            )
        start = int(rng.integers(num_stored - self.span() + 1))
        return slice(start, start + self.span(), self.stride_frames), self.flip and rng.random() < 0.5


@dataclass(frozen=True, slots=True)
class Clip:
    """A window of a sample.

    ``key`` is (sample id, epoch); ``at`` int64 f are the numbers of its frames in the stored sample.
    ``fields`` are arrays by name: ``video`` uint8 f 3 h w and what else was read, pictures with channels as
    f c h w; out of a cache ``latents`` float16 f c h w, ``text`` n d and what else was prepared.
    ``per_frame`` are the names of those that have a frame axis, which is their first. ``caption`` is empty
    where there is none.
    """

    key: tuple[str, int]
    caption: str
    metadata: dict
    at: np.ndarray
    fields: dict[str, np.ndarray]
    per_frame: frozenset[str] = field(default=frozenset({"video"}))

    @property
    def video(self) -> np.ndarray | None:
        """uint8 f 3 h w; None where it was not read."""
        return self.fields.get("video")

    def every(self, step: int) -> Clip:
        """Each ``step``-th frame, from the first on."""
        frames = slice(0, len(self.at), step)
        part = {
            name: _cut(name, array, frames) if name in self.per_frame else array
            for name, array in self.fields.items()
        }
        return replace(self, at=self.at[frames], fields=part)


def _cut(name: str, array: np.ndarray, frames: slice) -> np.ndarray:
    return FIELDS[name].cut(array, frames) if name in FIELDS else array[frames]


def clip_rng(seed: int, sample_id: str, epoch: int, purpose: str = "window") -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{sample_id}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


class Clips:
    """A map-style data set over ``(epoch, index)`` pairs, restricted to ``rows`` of the reader.

    Raises ValueError where one of them lacks what ``needs`` (by default video and caption) requires, or where
    the window can't be cut from it.
    """

    def __init__(
        self,
        reader: ShardReader | OneClip,
        window: Window,
        seed: int,
        rows: Sequence[int],
        needs: Needs | None = None,
    ) -> None:
        self.needs = needs or Needs()
        self.reader = reader.reading(self.needs)
        self.window, self.seed, self.rows = window, seed, rows
        check_window(window, self.needs)
        self.reader.check(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self) -> list[str]:
        """Of the samples, without reading them."""
        return [self.reader.key(row) for row in self.rows]

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        sample = self.reader[self.rows[index]]
        frames, mirror = slice(0, 0, 1), False
        if sample.num_frames:
            rng = clip_rng(self.seed, sample.id, epoch)
            frames, mirror = self.window.cut(sample.num_frames, f"sample {sample.id!r}", rng)
        video = {} if sample.video is None else {"video": sample.video}
        arrays = video | sample.fields
        return Clip(
            (sample.id, epoch),
            sample.caption or "",
            sample.metadata,
            at=numbers(frames),
            fields=windowed(arrays, frames, mirror),
            per_frame=per_frame(arrays),
        )


def check_window(window: Window, needs: Needs) -> None:
    """Raises ValueError where a field can't be cut or mirrored as the window asks: before training, not in
    it."""
    step = window.stride_frames * (2 if window.coarse_share else 1)
    for kind in (FIELDS[name] for name in needs.names if name in FIELDS):
        nothing = np.zeros((0,) * len(kind.axes.split()), kind.dtype)
        kind.cut(nothing, slice(0, 0, step))
        if window.flip and kind.reflect is None:
            kind.mirror(nothing)


def numbers(frames: slice) -> np.ndarray:
    """int64 f: the stored frames that a window takes."""
    return np.arange(frames.start, frames.stop, frames.step)


def per_frame(names: Iterable[str]) -> frozenset[str]:
    """Those of stored arrays that have a frame axis."""
    return frozenset(name for name in names if name == "video" or FIELDS[name].per_frame)


def windowed(arrays: Mapping[str, np.ndarray], frames: slice, mirror: bool) -> dict[str, np.ndarray]:
    """Stored arrays by name, cut, perhaps mirrored, pictures with channels as f c h w; each a copy."""
    out = {}
    for name, array in arrays.items():
        kind = VIDEO if name == "video" else FIELDS[name]
        part = kind.cut(kind.over(array, frames.stop), frames)
        part = kind.mirror(part) if mirror else part
        out[name] = np.array(kind.channels_first(part), order="C")
    return out


class Batches:
    """Batches of ``(epoch, index)`` for one rank, in the stateless order; the protocol of
    ``torch.utils.data.Sampler``, with a length."""

    def __init__(self, sampler: StatelessSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def __len__(self) -> int:
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch: list[tuple[int, int]] = []
        for draw in self.sampler.draws():
            batch.append(draw)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
