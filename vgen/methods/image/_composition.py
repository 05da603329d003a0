"""What the states of a caption of several things should be: those of the captions of each thing alone.

A causal text encoder lets the words of the second thing carry the facts of the first; a UNet then cannot tell
whose they are. The source is structured guidance (Feng et al. 2022, arXiv 2212.05032, section 3.1), which
encodes every noun phrase by itself at each sampling; here it is the target that a text encoder learns, so
that sampling stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Parts:
    """Words of one caption: ``before`` its things, one clause each, ``after`` them; ``joint`` stands between
    two clauses."""

    before: str
    clauses: Sequence[str]
    after: str
    joint: str


@dataclass(slots=True)
class Plan:
    """Where the target of each of the n positions of one caption comes from: rows of ``sources`` (token ids
    of the whole caption, then of every thing alone) and places in them, averaged. ``own``: positions of the
    words of the second thing and of those after it."""

    sources: list[list[int]]
    places: list[list[tuple[int, int]]]
    own: list[int]


def plan(parts: Parts, words: Callable[[str], list[int]], begin: int, end: int, length: int) -> Plan:
    """``words``: token ids without begin and end. Padding is the end token, as in CLIP, and is shared out
    among the things in turn, so that every thing has some that speak of it alone. A caption longer than
    ``length`` keeps the states it has."""
    before, after, joint = words(parts.before), words(parts.after), words(parts.joint)
    clauses = [words(clause) for clause in parts.clauses]

    def sentence(chosen: Sequence[list[int]]) -> list[int]:
        body: list[int] = []
        for i, clause in enumerate(chosen):
            body += (joint if i else []) + clause
        return [begin, *before, *body, *after, end]

    whole = sentence(clauses)
    if len(clauses) == 1 or len(whole) > length:
        return Plan(
            [_padded([*whole[: length - 1], end], end, length)], [[(0, i)] for i in range(length)], []
        )
    alone = [sentence([clause]) for clause in clauses]
    first = 1 + len(before)
    places: list[list[tuple[int, int]]] = [[(1, i)] for i in range(first)]
    own: list[int] = []
    for i, clause in enumerate(clauses, start=1):
        if i > 1:  # the joint says what the clause before it said
            places += [[(i - 1, first + len(clauses[i - 2]) - 1)]] * len(joint)
            own += range(len(places), len(places) + len(clause))
        places += [[(i, first + k)] for k in range(len(clause))]
    places += [
        [(i, first + len(clause) + k) for i, clause in enumerate(clauses, start=1)] for k in range(len(after))
    ]
    places += [
        [(0, len(places))]
    ]  # the end token, from which the text's embedding is made, speaks of everything
    for k in range(length - len(places)):
        i = k % len(clauses)
        places += [[(1 + i, min(len(alone[i]) + k // len(clauses), length - 1))]]
    return Plan([_padded(ids, end, length) for ids in (whole, *alone)], places, own)


def composed(plans: Sequence[Plan], states: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """Targets b n d: ``states`` (token ids r n to r n d, without gradient) of every source, gathered as
    planned."""
    sources = states(torch.tensor([ids for p in plans for ids in p.sources], device=device))
    most = max(len(at) for p in plans for at in p.places)
    row, place, share, offset = [], [], [], 0
    for p in plans:
        for at in p.places:
            padded = [*at, *[at[0]] * (most - len(at))]
            row += [offset + r for r, _ in padded]
            place += [k for _, k in padded]
            share += [1 / len(at)] * len(at) + [0.0] * (most - len(at))
        offset += len(p.sources)
    picked = sources[torch.tensor(row, device=device), torch.tensor(place, device=device)]
    weighted = picked * torch.tensor(share, device=device, dtype=picked.dtype)[:, None]
    return weighted.view(len(plans), -1, most, sources.shape[-1]).sum(2)


def _padded(ids: list[int], end: int, length: int) -> list[int]:
    return [*ids, *[end] * (length - len(ids))]
