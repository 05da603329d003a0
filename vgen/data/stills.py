"""Batches of stills among batches of clips, from corpora of their own, in a fixed share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

from vgen.data.clips import Clip
from vgen.data.order import StatelessSampler

Picked = tuple[int, int, int]
"""Which corpus (0: clips, 1: stills), epoch, index."""


class ByDraw(Protocol):
    """A map-style data set over (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, at: tuple[int, int], /) -> Clip: ...


class ClipsAndStills:
    """Both corpora as one map-style data set."""

    def __init__(self, clips: ByDraw, stills: ByDraw) -> None:
        self.parts = (clips, stills)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, at: Picked) -> Clip:
        part, epoch, index = at
        return self.parts[part][epoch, index]


def stills_before(number: int, share: float) -> int:
    """How many of the first ``number`` batches are stills."""
    return math.floor(number * share + 1e-9)


def kind_of(number: int, share: float) -> int:
    """What batch ``number`` is of, 0: clips, 1: stills."""
    return stills_before(number + 1, share) - stills_before(number, share)


class ClipAndStillBatches:
    """Batches of one rank, from batch ``first`` of ``num_batches`` on, in the protocol of
    ``torch.utils.data.Sampler`` with a length.

    Whether a batch is of stills hangs on its number alone, so every rank trains the same layers in a step.
    Each corpus has its own stateless order, and goes on in it where its last batch ended.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        share: float,
        batch_size: int,
        seed: int,
        *,
        first: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sizes, self.share, self.batch_size, self.seed = sizes, share, batch_size, seed
        self.first, self.num_batches = first, num_batches
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.num_batches - self.first

    def __iter__(self) -> Iterator[list[Picked]]:
        orders = [self._draws(part) for part in (0, 1)]
        for number in range(self.first, self.num_batches):
            part = kind_of(number, self.share)
            draws = [next(orders[part]) for _ in range(self.batch_size)]
            yield [(part, epoch, index) for epoch, index in draws]

    def _draws(self, part: int) -> Iterator[tuple[int, int]]:
        """The draws of one corpus by this rank, from where the earlier batches ended."""
        before, all_of_them = (self._batches_of(part, n) for n in (self.first, self.num_batches))
        global_batch = self.batch_size * self.world_size
        sampler = StatelessSampler(
            self.sizes[part],
            self.seed,
            consumed=before * global_batch,
            rank=self.rank,
            world_size=self.world_size,
            num_draws=(all_of_them - before) * global_batch,
        )
        return sampler.draws()

    def _batches_of(self, part: int, number: int) -> int:
        stills = stills_before(number, self.share)
        return stills if part else number - stills
