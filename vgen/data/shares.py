"""A part of some work that can be divided among processes which know nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """``index`` of ``of``, counted from 0."""

    index: int = 0
    of: int = 1

    @classmethod
    def named(cls, text: str) -> Share:
        """Of ``I/N``, as a task of a Slurm array is given it."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f"share must be I/N with I in 0..N-1, such as share=0/4, got {text}")
        return cls(int(found[1]), int(found[2]))

    def pair(self) -> tuple[int, int]:
        return self.index, self.of

    def part(self, whole: Sequence[T]) -> Sequence[T]:
        """Every so many of them; the parts of all shares are the whole."""
        return whole[self.index :: self.of]
