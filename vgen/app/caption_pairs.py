"""Caption pairs: words before an edit, the instruction, words after it. From a file, or by the toybox's
rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgen.data.listing import read_listing
from vgen.data.toybox_edits import drawn_pair
from vgen.toybox.edits import Edit

COLUMNS = ("input", "edit", "output")
"""As the released files name them (Brooks et al. 2023)."""


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """``lacking`` names the columns that are empty."""

    source: str
    instruction: str
    target: str
    lacking: tuple[str, ...] = ()


def of_file(path: Path) -> list[CaptionPair]:
    """Rows of a listing with the columns of :data:`COLUMNS`. Raises ValueError for a line that holds
    nothing."""
    rows = [_row(record) for record in read_listing(path, COLUMNS)]
    if not rows:
        raise ValueError(f"data.path={path} holds no caption pair; each needs {', '.join(COLUMNS)}")
    if path.suffix.lower() == ".jsonl":
        _refuse_empty_lines(path)
    return rows


def by_rule(num_pairs: int, seed: int) -> list[CaptionPair]:
    """Pairs of the toybox, whose edits take turns."""
    edits, out = list(Edit), []
    for i in range(num_pairs):
        pair = drawn_pair(i, seed, edits[i % len(edits)])
        out.append(CaptionPair(pair.source, pair.instruction, pair.target))
    return out


def _row(record: dict[str, Any]) -> CaptionPair:
    said = {name: record[name] for name in COLUMNS}
    lacking = tuple(n for n, text in said.items() if not (isinstance(text, str) and text.strip()))
    source, instruction, target = (" ".join(str(text or "").split()) for text in said.values())
    return CaptionPair(source, instruction, target, lacking)


def _refuse_empty_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    empty = [str(number) for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise ValueError(
            f"data.path={path} has empty lines ({', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''}); "
            "an instruction may be missing there: remove or fill them"
        )
