"""A caption that is wrong in one fact: what teaches a text encoder which fact belongs to which thing."""
from __future__ import annotations

import hashlib
import re

import numpy as np

from vgen.toybox.captions import ADVERBS, DIRECTIONS, SIZES
from vgen.toybox.scenes import SOLIDS, Colour, Shape

_GROUPS: tuple[tuple[tuple[str, ...], ...], ...] = (
    tuple((c.value,) for c in Colour), tuple((s.value,) for s in Shape), tuple(SIZES.values()), tuple(ADVERBS.values()),
    tuple(tuple(sorted(words, key=len, reverse=True)) for words in DIRECTIONS.values()), tuple((g.value,) for g in SOLIDS),
)
_PATTERNS = tuple(
    re.compile(r"\b(" + "|".join(sorted((re.escape(w) for words in group for w in words), key=len, reverse=True)) + r")\b")
    for group in _GROUPS
)


def distractor(caption: str, key: tuple[str, int]) -> str:
    """``caption`` with two like facts exchanged (a colour of one thing for that of the other) or one fact replaced.

    A pure function of its arguments.
    """
    digest = hashlib.blake2b(f"{caption}/{key}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "little"))
    for i in rng.permutation(len(_GROUPS)):
        found = list(_PATTERNS[i].finditer(caption))
        if not found:
            continue
        words = [match.group(1) for match in found]
        if len(found) == 2 and _class(i, words[0]) != _class(i, words[1]) and rng.random() < 0.6:
            words = words[::-1]
        else:
            at = int(rng.integers(len(found)))
            others = [group for group in _GROUPS[i] if words[at] not in group]
            other = others[rng.integers(len(others))]
            words[at] = other[rng.integers(len(other))]
        return _replace(caption, found, words)
    return caption + " not"


def _class(group: int, word: str) -> int:
    return next(j for j, words in enumerate(_GROUPS[group]) if word in words)


def _replace(caption: str, found: list[re.Match], words: list[str]) -> str:
    out, end = "", 0
    for match, word in zip(found, words, strict=True):
        out, end = out + caption[end : match.start()] + word, match.end()
    return out + caption[end:]
