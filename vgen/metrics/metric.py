"""What a number is called and by which rule it was made: numbers of different versions are not compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """``version`` grows whenever the same video would get another number."""

    id: str
    version: int
    about: str


Numbers = dict[str, float | None]
"""None: the clip does not ask for this (a factor left open); a failure is 0, never None."""
