"""From clips to batches: the stateless order, what goes beside them, the cache."""

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
from vgen.data.cache_building import Builders
from vgen.data.clips import Batches, Clip, Clips, clip_rng
from vgen.data.collate import frame_rates, stacked
from vgen.data.mixture import MixedBatches, Mixture
from vgen.data.order import StatelessSampler
from vgen.data.stills import ClipAndStillBatches, ClipsAndStills
from vgen.data.toybox import paraphrased, wrong_in_one_fact
from vgen.training.corpus import Corpus, Split


def cached(parts: Split, corpus: Corpus, encoder: Encoder, builders: Builders) -> Split:
    """The same split read from latent caches, which ``builders`` write where they are not there."""
    out: dict[str, Any] = {}
    for name in ("train", "val", "prior", "stills"):
        clips = getattr(parts, name)
        if clips is not None:
            assert isinstance(clips, Clips)  # of split(): no cache of a cache
            folder = Path(corpus.cache_dir) if corpus.cache_dir else Path(clips.reader.folder) / ".cache"
            out[name] = LatentCache.open_or_build(folder, name, clips, encoder, builders)
    return replace(parts, **out)


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
        batch.rates = frame_rates(clips)
        batch.fields, batch.present = stacked(clips)
        return batch


def collate_of(corpus: Corpus) -> Collate:
    return Collate(corpus.paraphrases, corpus.num_distractors)


def loaders(
    parts: Split, corpus: Corpus, seed: int, num_draws: int, consumed: int, rank: int, world_size: int
) -> tuple[DataLoader, DataLoader]:
    """Training and validation loaders of one rank. The training loader is as long as the whole run of
    ``num_draws`` samples, and gives those from ``consumed`` on."""
    stack = collate_of(corpus)
    coarse = replace(stack, coarse_share=corpus.window.coarse_share, seed=seed)
    ranks = Ranks(seed, corpus.batch_size, consumed, num_draws, rank, world_size)
    shown, order = mixed(parts, corpus, ranks)
    held = cast(Dataset[Clip], parts.val)  # data sets by what they do, not by inheritance
    train = Continued(
        ranks.done,
        cast(Dataset[Clip], shown),
        batch_sampler=order,
        collate_fn=coarse,
        num_workers=corpus.num_workers,
        persistent_workers=corpus.num_workers > 0,
    )
    mine = shares(len(parts.val), corpus.batch_size, world_size)[rank::world_size]
    return train, DataLoader(held, batch_sampler=mine, collate_fn=stack)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which samples one rank draws: those of a run of ``num_draws`` from ``consumed`` on."""

    seed: int
    batch_size: int
    consumed: int
    num_draws: int
    rank: int
    world_size: int

    @property
    def done(self) -> int:
        """Batches of each rank before."""
        return self.consumed // (self.batch_size * self.world_size)

    def batches(self, num_clips: int) -> Batches:
        sampler = StatelessSampler(
            num_clips,
            self.seed,
            consumed=self.consumed,
            rank=self.rank,
            world_size=self.world_size,
            num_draws=self.num_draws - self.consumed,
        )
        return Batches(sampler, self.batch_size)

    def among(self, sizes: tuple[int, int], share: float) -> ClipAndStillBatches:
        return ClipAndStillBatches(
            sizes,
            share,
            self.batch_size,
            self.seed,
            first=self.done,
            num_batches=self.num_draws // (self.batch_size * self.world_size),
            rank=self.rank,
            world_size=self.world_size,
        )


def mixed(
    parts: Split, corpus: Corpus, ranks: Ranks
) -> tuple[Clips | LatentCache | Mixture | ClipsAndStills, Batches | MixedBatches | ClipAndStillBatches]:
    """The training clips and their order, with those of the prior or stills where there are any."""
    if parts.stills is not None:
        sizes = (len(parts.train), len(parts.stills))
        return ClipsAndStills(parts.train, parts.stills), ranks.among(sizes, corpus.stills_share)
    own = ranks.batches(len(parts.train))
    if parts.prior is None:
        return parts.train, own
    both = Mixture(parts.train, parts.prior)
    return both, MixedBatches(own, ranks.batches(len(parts.prior)), len(parts.train))


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
