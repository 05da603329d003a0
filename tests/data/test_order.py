"""The order is a pure function: each sample once per epoch, whatever the ranks, from wherever training
stands."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from vgen.data.order import StatelessSampler, epoch_order


def draws(
    count: int, *, consumed: int = 0, world_size: int = 1, num_samples: int = 23, seed: int = 5
) -> list[int]:
    """The global sequence, put together from what the ranks get."""
    out: list[int] = []
    while len(out) < count:
        ranks = [
            list(
                StatelessSampler(
                    num_samples, seed, consumed=consumed + len(out), rank=r, world_size=world_size
                )
            )
            for r in range(world_size)
        ]
        assert len({len(r) for r in ranks}) == 1
        out += [i for row in zip(*ranks, strict=True) for i in row]
    return out[:count]


def test_each_sample_comes_once_per_epoch():
    order = draws(23 * 4)
    epochs = [order[i : i + 23] for i in range(0, len(order), 23)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_any_number_of_ranks_draws_the_same_sequence(world_size):
    assert draws(100, world_size=world_size) == draws(100)


def test_any_start_goes_on_exactly():
    rng, whole = np.random.default_rng(0), draws(120)
    for _ in range(20):
        consumed, world_size = int(rng.integers(0, 100)), int(rng.integers(1, 5))
        assert draws(20, consumed=consumed, world_size=world_size) == whole[consumed : consumed + 20]


def test_world_size_may_change_between_batches():
    got, batch = [], 12
    for world_size, num_batches in [(4, 2), (3, 3), (1, 1), (2, 4)]:
        for _ in range(num_batches):
            ranks = [
                StatelessSampler(23, 5, consumed=len(got), rank=r, world_size=world_size, num_draws=batch)
                for r in range(world_size)
            ]
            got += [i for row in zip(*ranks, strict=True) for i in row]
    assert got == draws(120)


def test_the_length_is_what_comes():
    for num_draws in (None, 0, 4, 40):
        sampler = StatelessSampler(23, 5, consumed=7, rank=1, world_size=4, num_draws=num_draws)
        assert len(sampler) == len(list(sampler))
    assert len(StatelessSampler(23, 5, consumed=7)) == 16


def test_it_drives_a_torch_loader():
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(list(range(23)), batch_size=5, sampler=StatelessSampler(23, 5, num_draws=40))
    assert [i for batch in loader for i in batch.tolist()] == draws(40)


def test_seeking_far_costs_nothing():
    sampler = StatelessSampler(1000, 0, consumed=10**12 + 17, num_draws=10**9)
    assert list(islice(sampler, 3)) == epoch_order(1000, 0, 10**9)[17:20].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "at least one sample"),
        ({"seed": -1}, "seed must lie in"),
        ({"rank": 2, "world_size": 2}, "rank must lie in 0..1"),
        ({"consumed": -4}, "can't be negative"),
        ({"world_size": 2, "num_draws": 3}, "multiple of world_size 2"),
    ],
)
def test_mistakes_speak(arguments, message):
    with pytest.raises(ValueError, match=message):
        StatelessSampler(**{"num_samples": 4, "seed": 0, **arguments})
