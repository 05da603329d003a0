"""The ledger: every file that did not become clips, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from vgen.data.files import write_whole

LEDGER = "ledger.jsonl"


class Reason(Enum):
    MISSING_FILE = "missing file"
    EMPTY = "empty"
    CORRUPT = "corrupt"
    AUDIO_ONLY = "audio only"
    NO_FRAMES = "no frames"
    TOO_SHORT = "too short"
    TOO_LARGE = "too large"
    TOO_SMALL = "too small"
    MISSING_CAPTION = "missing caption"
    DUPLICATE_KEY = "duplicate key"
    BAD_ROW = "bad row"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed out"
    WORKER_DIED = "worker died"
    FILTERED = "filtered"
    FAILED = "failed"

    @property
    def passing(self) -> bool:
        """Whether another try may end differently, so that a resumed run tries again."""
        return self in (Reason.UNREACHABLE, Reason.TIMED_OUT, Reason.WORKER_DIED)


class Rejected(Exception):
    """A file can't become clips; raised where the reason is known."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One row of the ledger. ``row`` counts from 0 in the order of the source."""

    row: int
    key: str
    source: str
    reason: Reason
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "key": self.key,
            "source": self.source,
            "reason": self.reason.value,
            "detail": self.detail,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Rejection:
        return Rejection(**{**data, "reason": Reason(data["reason"])})


def write_ledger(folder: Path, rejections: Iterable[Rejection]) -> None:
    lines = "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in rejections)
    write_whole(folder / LEDGER, lines.encode("utf-8", "backslashreplace"))


def read_ledger(folder: Path) -> list[Rejection]:
    """The rejections of a finished folder. Raises ``ValueError`` where the ledger is gone or is none."""
    try:
        return [
            Rejection.from_dict(json.loads(line))
            for line in (folder / LEDGER).read_text(encoding="utf-8").split("\n")
            if line
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"ledger {folder / LEDGER} is missing or damaged ({error}); delete {folder} and prepare it again"
        ) from error


def by_reason(rejections: Iterable[Rejection]) -> dict[str, int]:
    """Counts, the most frequent first."""
    return dict(Counter(r.reason.value for r in rejections).most_common())
