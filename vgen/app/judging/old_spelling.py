"""Old spellings of a suite's settings on the command line (``suite.edits=[both]``), which still work."""

from __future__ import annotations

from collections.abc import Sequence

from vgen.metrics.flat_suites import SLOTS

_MARKS = ("++", "+", "")


def respelt(words: Sequence[str]) -> list[str]:
    """Arguments of ``vgen evaluate`` with old keys written as new ones; all others stay."""
    return [new for word in words for new in _respelt(word)]


def moved(words: Sequence[str]) -> list[str]:
    """One sentence for each argument that is spelt the old way."""
    return [
        f"{word.partition('=')[0]} is now spelt {' and '.join(_places(word))}; the old spelling still works"
        for word in words
        if _places(word)
    ]


def _respelt(word: str) -> list[str]:
    """Where two kinds read the setting, the second refers to the first, so that a multirun stays one list."""
    places = _places(word)
    if not places:
        return [word]
    mark = next(mark for mark in _MARKS if word.startswith(mark))
    _, _, value = word.partition("=")
    return [f"{mark}{places[0]}={value}", *(f"{mark}{more}=${{{places[0]}}}" for more in places[1:])]


def _places(word: str) -> list[str]:
    """Where the key stands now; nothing for a key that did not move. ``suite.control={control: mask}`` gives
    the slot of that name and is new."""
    key, given, value = word.partition("=")
    section, _, name = key.lstrip("+").partition(".")
    if not given or section != "suite" or name not in SLOTS or value.startswith("{"):
        return []
    return [f"suite.{place}" for place in SLOTS[name]]
