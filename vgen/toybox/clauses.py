"""Captions taken apart again: which words speak of which thing."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SENTENCE = re.compile(
    r"(?P<before>on an? \w+ background , |an? \w+ scene with )?(?P<clauses>.+?)(?P<after> on an? \w+ "
    r"background| , \w+ background)?"
)
JOINT = " and "
_BETWEEN_THINGS = re.compile(r" and (?=an? )")  # neither "down and left" nor "a red shirt and blue trousers"


@dataclass(frozen=True, slots=True)
class Apart:
    """A caption as what stands ``before`` its things, a clause for each (``JOINT`` between them), and what
    stands ``after``: the ground on either side."""

    before: str
    clauses: tuple[str, ...]
    after: str


def apart(text: str) -> Apart:
    """The parts of a caption of this world. Things that share one clause, as in a relation, stay together."""
    found = _SENTENCE.fullmatch(text)
    if found is None:
        return Apart("", (text,), "")
    return Apart(found["before"] or "", tuple(_BETWEEN_THINGS.split(found["clauses"])), found["after"] or "")
