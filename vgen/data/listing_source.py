"""Videos that a listing names."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from vgen.data.decode import Cut
from vgen.data.download import Fetch, is_url
from vgen.data.ledger import Rejection
from vgen.data.listing import read_listing
from vgen.data.segments import SegmentUnit, segments_of
from vgen.data.sources import Captions, Job, Source, safe_key
from vgen.data.video_rows import Row, jobs_of, shown
from vgen.spec import spec

_SEGMENT, _SEVERAL = "\0segment", "\0several"
"""In a record, what no column can be called."""


@spec
class ListingSource(Source):
    """A CSV, TSV, Parquet or JSONL file with a row per video; local paths are relative to it, http(s)
    addresses are downloaded.

    With ``start_column`` a row is a segment of a video (to ``end_column``, or to the video's end), or has
    lists of captions, starts and ends; where ``start_column`` holds pairs of both, ``end_column`` names the
    same.
    """

    path: str | None = None
    video_column: str = "path"
    caption_column: str = "caption"
    key_column: str | None = None  # null: keys follow from the path or address
    start_column: str | None = None
    end_column: str | None = None
    segment_unit: SegmentUnit = SegmentUnit.SECONDS
    captions: Captions = Captions.REQUIRED
    max_download_megabytes: float = 500.0
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.end_column and not self.start_column:
            raise ValueError(
                f"data.end_column={self.end_column} needs data.start_column; segments have a start and an end"
            )
        for name in ("max_download_megabytes", "timeout_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"data.{name} must be positive and finite, got {getattr(self, name)}")

    def name(self) -> str:
        return self._file().stem

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        file = self._file()
        fetch = Fetch(int(self.max_download_megabytes * 1e6), self.timeout_seconds)
        records = (part for one in read_listing(file, self._columns()) for part in self._parts(one))
        rows = [self._row(record, file.parent) for record in records]
        if not rows:
            raise ValueError(f"listing {file} has no row")
        return jobs_of(rows, cut, fetch, self.captions)

    def _columns(self) -> list[str]:
        """Those that the listing must have."""
        own = (self.key_column, self.start_column, None if self._paired() else self.end_column)
        names = [self.video_column, self.caption_column, *(name for name in own if name)]
        if len(set(names)) < len(names):
            raise ValueError(
                "data.video_column, data.caption_column, data.key_column, data.start_column and "
                "data.end_column must differ, got "
                f"{', '.join(names)}"
            )
        optional = self.captions is Captions.OPTIONAL
        return [name for name in names if name != self.caption_column or not optional]

    def _paired(self) -> bool:
        return self.start_column is not None and self.start_column == self.end_column

    def _parts(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The record of each segment of a row, under the names of one; the row itself where it has none, or
        where they can't be read, which :meth:`_row` rejects."""
        if self.start_column is None:
            return [record]
        start = record.pop(self.start_column)
        end = start if self._paired() else record.pop(self.end_column or "", None)
        caption = record.get(self.caption_column)
        try:
            found = segments_of(caption, start, end, self.segment_unit, self._paired())
        except ValueError as error:
            return [record | {_SEGMENT: error}]
        several = len(found) > 1
        return [
            record | {self.caption_column: text, _SEGMENT: segment, _SEVERAL: several}
            for text, segment in found
        ]

    def _row(self, record: dict[str, Any], folder: Path) -> Row:
        segment, several = record.pop(_SEGMENT, None), record.pop(_SEVERAL, False)
        video, caption = record.pop(self.video_column), record.pop(self.caption_column, None)
        location = "" if video is None else str(video).strip()
        given = record.pop(self.key_column) if self.key_column else None
        unusable = not (caption is None or isinstance(caption, str))
        text = "" if unusable else " ".join((caption or "").split()) or None
        missing = f"column {self.caption_column!r} {'holds no text' if unusable else 'is empty'}"
        try:
            if self.key_column and given in (None, ""):
                raise ValueError(f"column {self.key_column!r} is empty")
            if is_url(location):
                key, told = _address_key(location), _bare(location)
            else:
                key, told = (
                    PurePosixPath(location).with_suffix("").as_posix() if location else "",
                    shown(location),
                )
                location = str((folder / location).absolute())
            safe_key(key := key if given is None else str(given))
            if isinstance(segment, ValueError):
                raise segment
            if segment is not None and (given is None or several):
                key = f"{key}-{segment.key}"
        except (
            ValueError
        ) as error:  # an address or a path that is none: a fact about this row, not about the listing
            told = "" if is_url(location) else shown(location)
            return Row("", told, location, text, record, missing, f"the row can't be read: {error}")
        return Row(key, told, location, text, record, missing, segment=segment)

    def _file(self) -> Path:
        if self.path is None:
            raise ValueError("data=listing needs the listing: data.path=FILE.csv (or .tsv, .parquet, .jsonl)")
        return Path(self.path).expanduser()


def _address_key(url: str) -> str:
    parts = urlsplit(url)
    query = "-" + hashlib.sha256(parts.query.encode()).hexdigest()[:8] if parts.query else ""
    return f"{parts.hostname or ''}/{PurePosixPath(parts.path.lstrip('/')).with_suffix('') if parts.path.strip('/') else ''}{query}"  # noqa: E501


def _bare(url: str) -> str:
    """The address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
