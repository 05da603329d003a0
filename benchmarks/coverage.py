"""How often paired differences of set numbers hold the truth: two invented checkpoints over eight captions,
drawn again and again.

    python benchmarks/coverage.py rounds=200 noises=16

Prints one line per case and number: the true difference (the mean over all rounds), the share of 95 %
intervals that hold it, and the share that holds 0. Captions are drawn anew in every round for numbers whose
resamples are over captions; they stay for those of all clips at once, whose resamples are over noises.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from vgen.metrics.sets import (
    duplicates,
    energy_distance,
    energy_resampled,
    memorisation,
    mmd2_resampled,
    nearest,
    vendi,
)
from vgen.metrics.statistics import Resampled, average

CAPTIONS = 8
PAIRS = 32
OVER_NOISES = ("set_energy", "set_mmd2")
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def halved(made: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half the spread."""
    return made / 2


def copied(made: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each caption repeats its first clip for a share of its noises."""
    share = rng.beta(2, 4, (len(made), 1, 1))
    return np.where(rng.random((*made.shape[:2], 1)) < share, made[:, :1], made)


CASES: dict[str, Change] = {
    "both the world": lambda made, rng: made,
    "half the spread": halved,
    "copies": copied,
}


def drawn(
    change: Change, num_noises: int, middle: np.ndarray, training: np.ndarray, rng: np.random.Generator
) -> list[dict[str, Resampled]]:
    """Both checkpoints answer half of the noises alike, are held against one world, and hear a word with
    their captions' own shares."""
    shape = (CAPTIONS, num_noises, 4)
    noise, other, world, again = (rng.uniform(-0.3, 0.3, shape) for _ in range(4))
    second = change(np.where(rng.random((*shape[:2], 1)) < 0.5, noise, other), rng)
    first, hardness = copied(noise, rng) if change is copied else noise, rng.random(PAIRS)
    heard = [hardness + rng.normal(0, 0.2, PAIRS) < 0.6 for _ in range(2)]
    return [
        _numbers(middle + x, middle + world, middle + again, training, pairs)
        for x, pairs in zip((first, second), heard, strict=True)
    ]


def _numbers(
    made: np.ndarray, world: np.ndarray, again: np.ndarray, training: np.ndarray, pairs: np.ndarray
) -> dict[str, Resampled]:
    flat, captions = [x.reshape(-1, 4) for x in (made, again)], np.repeat(np.arange(CAPTIONS), made.shape[1])
    found = {
        "energy": average([energy_distance(a, b) for a, b in zip(made, world, strict=True)]),
        "vendi_ratio": average([vendi(a) / vendi(b) for a, b in zip(made, world, strict=True)]),
        "dup": average([duplicates(a) for a in made]),
        "pair": average(list(pairs)),
        "set_energy": energy_resampled(*flat, list(captions)),
        "set_mmd2": mmd2_resampled(*flat, list(captions)),
        "mem": memorisation(*(nearest(x, training) for x in flat), list(captions)),
    }
    return {key: number for key, number in found.items() if number is not None}


def main(rounds: int = 200, noises: int = 16) -> None:
    rng = np.random.default_rng(0)
    training, fixed = rng.uniform(0, 1, (2000, 4)), rng.uniform(0.3, 0.7, (CAPTIONS, 1, 4))
    for case, change in CASES.items():
        over_captions = [
            drawn(change, noises, rng.uniform(0.3, 0.7, (CAPTIONS, 1, 4)), training, rng)
            for _ in range(rounds)
        ]
        over_noises = [drawn(change, noises, fixed, training, rng) for _ in range(rounds)]
        for key in over_captions[0][0]:
            found = [b[key].minus(a[key]) for a, b in (over_noises if key in OVER_NOISES else over_captions)]
            true = float(np.mean([x.mean for x in found if x.mean is not None]))
            ends = [(x.low, x.high) for x in found if x.low is not None and x.high is not None]
            held, nothing = (np.mean([low <= at <= high for low, high in ends]) for at in (true, 0.0))
            print(
                f"{case:16} {key:12} true {true:+.4f}   held {held:.3f}   holds 0 {nothing:.3f}", flush=True
            )


if __name__ == "__main__":
    main(**{key: int(value) for key, value in (word.split("=") for word in sys.argv[1:])})
