"""Clips for training: a window of frames out of a stored sample, as a pure function of (seed, sample id,
epoch)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    """``video`` uint8 f 3 h w, or ``latents`` float16 f c h w with ``text`` n d out of a cache; ``key`` is
    (sample id, epoch)."""

    key: tuple[str, int]
    caption: str
    metadata: dict
    video: np.ndarray | None = None
    latents: np.ndarray | None = None
    text: np.ndarray | None = None
    pooled: np.ndarray | None = None


def clip_rng(seed: int, sample_id: str, epoch: int, purpose: str = "window") -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{sample_id}/{epoch}/{purpose}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


class Clips:
    """A map-style data set over ``(epoch, index)`` pairs, restricted to ``rows`` of the reader."""

    def __init__(self, reader: ShardReader | OneClip, window: Window, seed: int, rows: range) -> None:
        self.reader, self.window, self.seed, self.rows = reader, window, seed, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: tuple[int, int]) -> Clip:
        epoch, index = at
        sample = self.reader[self.rows[index]]
        frames, mirror = self.window.cut(
            len(sample.video), f"sample {sample.id!r}", clip_rng(self.seed, sample.id, epoch)
        )
        video = sample.video[frames, :, ::-1] if mirror else sample.video[frames]
        return Clip(
            (sample.id, epoch),
            sample.caption,
            sample.metadata,
            video=np.ascontiguousarray(video.transpose(0, 3, 1, 2)),
        )


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
