"""From a folder of shards to batches: the split, the stateless order, the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from vgen.data.batch import Batch, Encoder
from vgen.data.cache import LatentCache
from vgen.data.clips import Batches, Clip, Clips, Window, clip_rng
from vgen.data.collate import stacked
from vgen.data.decode import Cut
from vgen.data.fields import Needs
from vgen.data.one_clip import OneClip, read_clip
from vgen.data.order import StatelessSampler
from vgen.data.reader import ShardReader
from vgen.data.toybox import paraphrased, wrong_in_one_fact
from vgen.spec import field, spec
from vgen.training.held_out import HeldOut, held_out, source_of


@spec
class Corpus:
    """Where the clips are and how they are read.

    ``batch_size`` is per process and step; ``cache`` encodes pixels and text once, before the first step,
    into ``cache_dir`` (by default beside the shards). ``val_clips`` samples are held out, whole videos that
    ``val_seed`` chooses (:mod:`vgen.training.held_out`), unless ``val_path`` names others. ``paraphrases``
    adds another caption of the same scene to every sample, ``num_distractors`` up to so many that are wrong
    in one fact (toybox corpora only).

    Instead of shards, ``video`` names one file and ``prompt`` its caption; it is read at ``fps`` from
    ``start_seconds`` on, as long as the window, ``size_px`` square (0: the image model's own size).
    """

    path: str = ""
    video: str = ""
    prompt: str = ""
    fps: float = 8.0
    start_seconds: float = 0.0
    size_px: int = 0
    window: Window = field(default_factory=Window)
    batch_size: int = 4
    val_path: str | None = None
    val_clips: int = 32
    val_seed: int = 0
    num_workers: int = 0
    cache: bool = False
    cache_dir: str | None = None
    paraphrases: bool = False
    num_distractors: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {self.batch_size}")
        if self.val_clips < 1:
            raise ValueError(
                f"data.val_clips must be at least 1, got {self.val_clips}; held-out figures need something "
                "to be computed on"
            )
        self._refuse_idle()
        if self.paraphrases and self.cache:
            raise ValueError(
                "data.paraphrases=true needs each sample's scene, which data.cache=true does not keep; set "
                "data.cache=false"
            )
        if self.num_workers < 0:
            raise ValueError(
                f"data.num_workers must not be negative, got {self.num_workers}; 0 reads in the training "
                "process itself"
            )

    def _refuse_idle(self) -> None:
        """Raises ValueError for a setting that nothing reads beside the others."""
        of_a_clip = {"prompt": "", "fps": 8.0, "start_seconds": 0.0, "size_px": 0}
        given = [name for name, usual in of_a_clip.items() if getattr(self, name) != usual]
        if self.path and not self.video and given:
            raise ValueError(
                f"data.{given[0]}={getattr(self, given[0])} is of one clip, data.video=FILE, and does "
                f"nothing beside data.path={self.path}, whose clips are cut and captioned; say it to 'vgen "
                "prepare'"
            )
        if self.video and self.val_path is not None:
            raise ValueError(
                f"data.val_path={self.val_path} does nothing beside data.video={self.video}, which is "
                "validated on itself; leave it out"
            )
        if self.cache_dir is not None and not self.cache:
            raise ValueError(
                f"data.cache_dir={self.cache_dir} does nothing without a cache; add data.cache=true or leave "
                "it out"
            )


@dataclass(slots=True)
class Split:
    """Training and held-out clips, and how they were told apart."""

    train: Clips | LatentCache
    val: Clips | LatentCache
    told: str = ""

    @property
    def num_train(self) -> int:
        return len(self.train)


def split(corpus: Corpus, seed: int, size_px: int, needs: Needs | None = None) -> Split:
    """Open the shards, or the one clip at ``size_px``, for what ``needs`` names (by default video and
    caption).

    Members that nothing reads are named once in the log. Raises ValueError where there is nothing to train
    on, and where a sample lacks what is required.
    """
    needs = needs or Needs()
    if corpus.video:
        one = Clips(_one_clip(corpus, size_px, needs), corpus.window, seed, range(1), needs)
        told = "nothing is held out of a single clip: its validation figures are of the clip itself"
        return Split(one, one, told)
    if not corpus.path:
        raise ValueError(
            "data.path names no folder of shards; make one with 'vgen prepare' and give data.path=FOLDER"
        )
    reader = ShardReader(Path(corpus.path), needs)
    held = reader if corpus.val_path is None else ShardReader(Path(corpus.val_path), needs)
    rows = _rows(corpus, reader) if corpus.val_path is None else _all_and(corpus, reader, held)
    fixed = Window(num_frames=corpus.window.num_frames, stride_frames=corpus.window.stride_frames)
    parts = Split(
        Clips(reader, corpus.window, seed, rows.train, needs),
        Clips(held, fixed, seed, rows.val, needs),
        rows.told,
    )
    for shards in {reader.folder: reader, held.folder: held}.values():
        shards.name_unread()
    return parts


def _rows(corpus: Corpus, reader: ShardReader) -> HeldOut:
    if len(reader) <= corpus.val_clips:
        raise ValueError(
            f"{corpus.path} has {len(reader)} clips of which data.val_clips={corpus.val_clips} are held out; "
            "lower data.val_clips or prepare more clips"
        )
    sources = [source_of(reader.metadata(row), reader.key(row)) for row in range(len(reader))]
    return held_out(sources, corpus.val_clips, corpus.val_seed)


def _all_and(corpus: Corpus, reader: ShardReader, held: ShardReader) -> HeldOut:
    num = min(len(held), corpus.val_clips)
    return HeldOut(
        range(len(reader)), range(num), f"held out: {num} clips of data.val_path={corpus.val_path}"
    )


def _one_clip(corpus: Corpus, size_px: int, needs: Needs) -> OneClip:
    if corpus.path:
        raise ValueError(
            f"data.path={corpus.path} and data.video={corpus.video} are both given; train on one of them"
        )
    if not corpus.prompt and "caption" in needs.required:
        raise ValueError(
            f'data.prompt says nothing about {corpus.video}; give data.prompt="what the clip shows"'
        )
    cut = Cut(fps=corpus.fps, num_frames=corpus.window.span(), size_px=corpus.size_px or size_px)
    return OneClip(read_clip(corpus.video, cut, corpus.start_seconds), corpus.prompt, corpus.fps)


def cached(parts: Split, corpus: Corpus, encoder: Encoder, device: torch.device, build: bool) -> Split:
    """The same split read from latent caches; ``build`` is True on the one process that writes them."""
    out = []
    for name, clips in (("train", parts.train), ("val", parts.val)):
        assert isinstance(clips, Clips)  # of split(): no cache of a cache
        folder = Path(corpus.cache_dir) if corpus.cache_dir else Path(clips.reader.folder) / ".cache"
        out.append(LatentCache.open_or_build(folder, name, clips, encoder, device, build))
    return Split(out[0], out[1], parts.told)


@dataclass(slots=True)
class Collate:
    """A picklable collate function. Whether a batch is a coarse one (see Window) hangs on its first sample,
    epoch and ``seed`` alone."""

    paraphrases: bool = False
    num_distractors: int = 0
    coarse_share: float = 0.0
    seed: int = 0

    def __call__(self, clips: list[Clip]) -> Batch:
        if self.coarse_share and clip_rng(self.seed, *clips[0].key, "coarse").random() < self.coarse_share:
            clips = [clip.every(2) for clip in clips]
        batch = Batch(
            keys=[clip.key for clip in clips],
            captions=[clip.caption for clip in clips],
            at=torch.stack([torch.from_numpy(clip.at) for clip in clips]),
            paraphrases=paraphrased(clips) if self.paraphrases else [],
            distractors=wrong_in_one_fact(clips, self.num_distractors),
        )
        batch.fields, batch.present = stacked(clips)
        return batch


def collate_of(corpus: Corpus) -> Collate:
    return Collate(corpus.paraphrases, corpus.num_distractors)


def loaders(
    parts: Split, corpus: Corpus, seed: int, num_draws: int, consumed: int, rank: int, world_size: int
) -> tuple[DataLoader, DataLoader]:
    """Training and validation loaders of one rank. The training loader is as long as the whole run of
    ``num_draws`` samples, and gives those from ``consumed`` on."""
    left = num_draws - consumed
    sampler = StatelessSampler(
        len(parts.train), seed, consumed=consumed, rank=rank, world_size=world_size, num_draws=left
    )
    stack = collate_of(corpus)
    coarse = replace(stack, coarse_share=corpus.window.coarse_share, seed=seed)
    seen, held = (
        cast(Dataset[Clip], parts.train),
        cast(Dataset[Clip], parts.val),
    )  # data sets by what they do, not by inheritance
    train = Continued(
        consumed // (corpus.batch_size * world_size),
        seen,
        batch_sampler=Batches(sampler, corpus.batch_size),
        collate_fn=coarse,
        num_workers=corpus.num_workers,
        persistent_workers=corpus.num_workers > 0,
    )
    mine = shares(len(parts.val), corpus.batch_size, world_size)[rank::world_size]
    return train, DataLoader(held, batch_sampler=mine, collate_fn=stack)


class Continued(DataLoader):
    """A loader that counts ``num_before`` batches which an earlier part of the run has read: Lightning's
    count of batches goes on, too.

    What Lightning takes for a loader that can resume has the two methods of state; this one's place follows
    from the steps done.
    """

    def __init__(self, num_before: int, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.num_before = num_before

    def __len__(self) -> int:
        return self.num_before + super().__len__()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def shares(num_clips: int, batch_size: int, world_size: int) -> list[list[tuple[int, int]]]:
    """Held-out clips, each once, in near-equal batches whose number is a multiple of ``world_size``.

    A rank with one batch more than another would wait for it for ever in the next collective. Batches may
    exceed ``batch_size`` (by less than twice) where clips are few.
    """
    if num_clips < world_size:
        raise ValueError(
            f"{num_clips} held-out clips cannot be shared by {world_size} processes; set data.val_clips to "
            f"at least {world_size}"
        )
    rounds = min(math.ceil(num_clips / (batch_size * world_size)), num_clips // world_size)
    edges = [num_clips * i // (rounds * world_size) for i in range(rounds * world_size + 1)]
    return [[(0, i) for i in range(start, end)] for start, end in pairwise(edges)]
