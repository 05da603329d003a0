"""Captions taken apart again: which words speak of which thing."""
from __future__ import annotations

import re
from dataclasses import dataclass

_SENTENCE = re.compile(
    r"(?P<before>on an? \w+ background , |an? \w+ scene with )?(?P<clauses>.+?)(?P<after> on an? \w+ background| , \w+ background)?"
)
JOINT = " and "
_BETWEEN_THINGS = re.compile(r" and (?=an? )")  # neither "down and left" nor "a red shirt and blue trousers"


@dataclass(frozen=True, slots=True)
class Apart:
    """A caption as what stands ``before`` its things, a clause for each, and what stands ``after``: the ground on either side."""

    before: str
    clauses: tuple[str, ...]
    after: str

    def alone(self) -> list[str]:
        """The captions of a picture with each thing by itself, in the same words."""
        return [self.before + clause + self.after for clause in self.clauses]

    @property
    def text(self) -> str:
        return self.before + JOINT.join(self.clauses) + self.after


def apart(text: str) -> Apart:
    """The parts of a caption of this world. Things that share one clause, as in a relation, stay together."""
    found = _SENTENCE.fullmatch(text)
    if found is None:
        return Apart("", (text,), "")
    return Apart(found["before"] or "", tuple(_BETWEEN_THINGS.split(found["clauses"])), found["after"] or "")
