"""The order of samples as a pure function, so that its whole state is one integer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """int64 ``n``: a permutation of ``range(num_samples)`` that depends on nothing but its arguments.
    Read-only."""
    order = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(
        num_samples
    )
    order.flags.writeable = False
    return order


class StatelessSampler:
    """Indices for one rank of ``world_size``, from the sample at which the whole job stands.

    The job draws from one endless sequence: epoch after epoch, each sample once per epoch. The draw at
    position ``p`` belongs to rank ``(p - consumed) % world_size``. So every global batch (a multiple of
    ``world_size`` draws) is split evenly and nothing is padded, dropped or repeated, whatever the number of
    ranks; a batch may run over the border of two epochs. All that resuming needs is ``consumed``, the number
    of samples the whole job has trained on: trained steps x global batch.

    ``num_draws`` is what one pass gives over all ranks; by default the rest of the present epoch, rounded up
    to whole rounds of ranks. It follows the protocol of ``torch.utils.data.Sampler``.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        consumed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_draws: int | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError(
                f"a sampler needs at least one sample, got {num_samples}; look into the folder's ledger.jsonl"
            )
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must lie in 0..2^64-1, got {seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..{world_size - 1} for world_size {world_size}, got {rank}")
        if consumed < 0:
            raise ValueError(
                f"consumed counts samples from the start of training and can't be negative, got {consumed}"
            )
        if num_draws is None:
            rest = num_samples - consumed % num_samples
            num_draws = -(-rest // world_size) * world_size
        if num_draws < 0 or num_draws % world_size:
            raise ValueError(
                f"num_draws must be a multiple of world_size {world_size} so that all ranks get as many, "
                f"got {num_draws}"
            )
        self.num_samples, self.seed, self.consumed = num_samples, seed, consumed
        self.rank, self.world_size, self.num_draws = rank, world_size, num_draws

    def __len__(self) -> int:
        return self.num_draws // self.world_size

    def __iter__(self) -> Iterator[int]:
        return (index for _, index in self.draws())

    def draws(self) -> Iterator[tuple[int, int]]:
        """(epoch, index) of every draw: random numbers of a sample are keyed by its id and epoch."""
        for position in range(self.consumed + self.rank, self.consumed + self.num_draws, self.world_size):
            epoch, place = divmod(position, self.num_samples)
            yield epoch, int(epoch_order(self.num_samples, self.seed, epoch)[place])
