"""Rows that name a video each, of a folder or of a listing, and the jobs that they become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.beside import read_beside
from vgen.data.decode import Cut, clips
from vgen.data.download import Fetch, is_url
from vgen.data.ledger import Reason, Rejected, Rejection
from vgen.data.sample import Sample, plain
from vgen.data.segments import Segment
from vgen.data.sources import Captions, Job, safe_key


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoJob(Job):
    location: str
    caption: str | None
    columns: dict[str, Any]
    cut: Cut
    fetch: Fetch
    segment: Segment | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    """Files that hold fields of this video; nothing for one that others of its source have."""

    def samples(self, scratch: Path) -> Iterator[Sample]:
        path = self.fetch(self.location, scratch) if is_url(self.location) else Path(self.location)
        try:
            for number, clip in enumerate(clips(path, self.cut, segment=self.segment)):
                ours = {**clip.metadata, "source": self.source, "clip": number}
                facts = ours | _told_apart(ours, self.columns)
                yield Sample(f"{self.key}-{number:04d}", clip.video, self.caption, facts)
        finally:
            if is_url(self.location):
                path.unlink()

    def truth(self, sample: Sample, name: str) -> np.ndarray | None:
        if name not in self.given:
            return None
        if not self.given[name]:
            stem = Path(self.location).stem
            raise Rejected(Reason.MISSING_FILE, f"no {stem}.{name}.* beside it, as beside others")
        try:
            return read_beside(name, Path(self.given[name]), self.cut, sample.metadata)
        except ValueError as error:
            raise Rejected(Reason.FAILED, str(error)) from error

    def identity(self) -> dict[str, Any]:
        path = Path(self.location)
        num_bytes = None
        if not is_url(self.location):
            num_bytes = path.stat().st_size if is_there(path) else None
        return {
            "key": self.key,
            "source": self.source,
            "caption": self.caption,
            "columns": plain(self.columns),
            "num_bytes": num_bytes,
            **({} if self.segment is None else {"segment": asdict(self.segment)}),
            **({"given": _weighed(self.given)} if self.given else {}),
        }


def _weighed(given: Mapping[str, str]) -> dict[str, Any]:
    """Names of the files that hold fields, and their sizes, those of a folder together."""
    return {name: [Path(file).name, _num_bytes(Path(file))] for name, file in given.items() if file}


def _num_bytes(path: Path) -> int:
    return sum(map(_num_bytes, path.iterdir())) if path.is_dir() else path.stat().st_size


def _told_apart(ours: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Columns by their own names, but for those that are ours: these are told apart by ``given_``, as often
    as it takes."""
    out: dict[str, Any] = {k: v for k, v in columns.items() if k not in ours}
    for name, value in columns.items():
        if name in ours:
            given = f"given_{name}"
            while given in out or given in ours:
                given = f"given_{given}"
            out[given] = value
    return out


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    source: str
    location: str
    caption: str | None  # None: there is none; empty: there is one that can't be used
    columns: dict[str, Any]
    why_no_caption: str
    defect: str = ""
    segment: Segment | None = None
    given: Mapping[str, str] = field(default_factory=dict)


def jobs_of(rows: Iterable[Row], cut: Cut, fetch: Fetch, captions: Captions) -> list[Job | Rejection]:
    """Rows in order; those without a caption, where it is required, or with a key that an earlier row has are
    rejected here."""
    absent = {None, ""} if captions is Captions.REQUIRED else {""}
    taken: dict[str, tuple[int, str]] = {}
    out: list[Job | Rejection] = []
    for number, row in enumerate(rows):
        key = safe_key(row.key)
        where: dict[str, Any] = {"row": number, "key": key, "source": row.source}
        if row.defect:
            out.append(Rejection(**where, reason=Reason.BAD_ROW, detail=row.defect))
        elif not row.source:
            out.append(Rejection(**where, reason=Reason.MISSING_FILE, detail="the row names no video"))
        elif row.caption in absent:
            out.append(Rejection(**where, reason=Reason.MISSING_CAPTION, detail=row.why_no_caption))
        elif key in taken:
            out.append(
                Rejection(
                    **where,
                    reason=Reason.DUPLICATE_KEY,
                    detail=_taken(row, *taken[key]),
                )
            )
        else:
            taken[key] = number, row.location
            out.append(
                VideoJob(
                    **where,
                    location=row.location,
                    caption=row.caption,
                    columns=row.columns,
                    cut=cut,
                    fetch=fetch,
                    segment=row.segment,
                    given=row.given,
                )
            )
    return out


def _taken(row: Row, number: int, location: str) -> str:
    told = f"row {number} has the key {safe_key(row.key)!r} already"
    if row.segment is None and row.location == location:
        return f"{told}; data.start_column and data.end_column cut a video by rows"
    return told


def is_there(path: Path) -> bool:
    """Whether there is such a file; a name that is too long for any has none."""
    with suppress(OSError):
        return path.is_file()
    return False


def shown(name: str) -> str:
    """A file's name in letters that any file can hold: names on a disk are bytes, and may be no text."""
    return name.encode("utf-8", "backslashreplace").decode()
