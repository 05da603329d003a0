"""Where videos come from: a folder with captions beside the files, or a listing."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from vgen.data.bounded import refuse_deep
from vgen.data.decode import Cut, clips
from vgen.data.download import Fetch, is_url
from vgen.data.ledger import Reason, Rejection
from vgen.data.listing import read_listing
from vgen.data.sample import Sample, Video, plain
from vgen.data.segments import Segment, SegmentUnit, segments_of
from vgen.spec import Choice, spec

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".qt",
    ".3gp",
    ".webm",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".ogv",
    ".flv",
    ".wmv",
    ".gif",
)
LONGEST_KEY = 80
_SEGMENT, _SEVERAL = "\0segment", "\0several"
"""In a record, what no column can be called."""


class Captions(Choice):
    """Whether a row without a caption is rejected, or becomes clips without one."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of a source that a worker turns into samples. ``source`` is how ledger and metadata name it."""

    row: int
    key: str
    source: str

    def samples(self, scratch: Path) -> Iterator[Sample]:
        raise NotImplementedError

    def truth(self, sample: Sample, name: str) -> np.ndarray | None:
        """The field ``name`` of a sample of this job where it is known without looking at the pixels; None
        where it has to be detected."""
        return None

    def identity(self) -> dict[str, Any]:
        """What decides the samples, beside the settings; changes between two runs are found by it. Of files
        that is their size: to read all of a corpus before every run would take hours."""
        return asdict(self)


@spec
class Source:
    """What ``data=`` chooses. ``jobs`` lists the rows, those rejected at sight among them."""

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        raise NotImplementedError

    def name(self) -> str:
        """The folder to write to, where none is said."""
        raise NotImplementedError

    def knows(self) -> tuple[str, ...]:
        """Fields of its samples that it knows without looking at their pixels."""
        return ()

    def usual(self) -> tuple[int, Video]:
        """size_px and storage, where none is said."""
        return 256, Video.mp4


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoJob(Job):
    location: str
    caption: str | None
    columns: dict[str, Any]
    cut: Cut
    fetch: Fetch
    segment: Segment | None = None

    def samples(self, scratch: Path) -> Iterator[Sample]:
        path = self.fetch(self.location, scratch) if is_url(self.location) else Path(self.location)
        try:
            for number, clip in enumerate(clips(path, self.cut, segment=self.segment)):
                ours = {**clip.metadata, "source": self.source, "clip": number}
                yield Sample(
                    f"{self.key}-{number:04d}", clip.video, self.caption, ours | _beside(ours, self.columns)
                )
        finally:
            if is_url(self.location):
                path.unlink()

    def identity(self) -> dict[str, Any]:
        path = Path(self.location)
        num_bytes = None
        if not is_url(self.location):
            num_bytes = path.stat().st_size if _there(path) else None
        return {
            "key": self.key,
            "source": self.source,
            "caption": self.caption,
            "columns": plain(self.columns),
            "num_bytes": num_bytes,
            **({} if self.segment is None else {"segment": asdict(self.segment)}),
        }


def _beside(ours: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
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


@spec
class FolderSource(Source):
    """Video files of a folder and its subfolders; ``clip.txt`` or ``clip.json`` beside ``clip.mp4`` holds the
    caption."""

    path: str | None = None
    caption_key: str = "caption"  # in the .json; its other entries are kept
    captions: Captions = Captions.REQUIRED

    def name(self) -> str:
        return self._folder().resolve().name

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        folder = self._folder()
        files = sorted(_videos(folder), key=lambda f: f.relative_to(folder).as_posix())
        if not files:
            raise ValueError(
                f"folder {folder} holds no video; looked for {' '.join(VIDEO_SUFFIXES)} in it and below"
            )
        rows = []
        for file in files:
            name = file.relative_to(folder)
            rows.append(
                _Row(
                    name.with_suffix("").as_posix(),
                    _shown(name.as_posix()),
                    str(file.absolute()),
                    *self._caption(file),
                )
            )
        return _jobs(rows, cut, Fetch(), self.captions)

    def _folder(self) -> Path:
        if self.path is None:
            raise ValueError("data=folder needs the folder of videos: data.path=FOLDER")
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise ValueError(
                f"data.path={self.path} is no folder; for a .csv, .parquet or .jsonl listing use data=listing"
            )
        return folder

    def _caption(self, file: Path) -> tuple[str | None, dict[str, Any], str]:
        """Caption, other columns, and why there is no caption: None is none at all, an empty one is one that
        can't be used."""
        text, facts = file.with_suffix(".txt"), file.with_suffix(".json")
        caption, columns, reading = "", {}, facts
        try:
            if _there(facts):
                columns = json.loads(facts.read_text(encoding="utf-8-sig"))
                refuse_deep(columns)
                if not isinstance(columns, dict):
                    raise ValueError(f"it holds a {type(columns).__name__} where an object is needed")
                caption = columns.pop(self.caption_key, None) or ""
            reading = text
            if _there(text):
                caption = text.read_text(encoding="utf-8-sig").strip() or caption
            found = [_shown(f.name) for f in (text, facts) if _there(f)]
        except (ValueError, RecursionError) as error:
            return "", {}, f"{_shown(reading.name)} can't be read: {error}"
        except OSError as error:  # no right to read it
            return "", {}, f"{_shown(reading.name)} can't be read: {error.strerror}"
        if not isinstance(caption, str):
            return "", {}, f"{self.caption_key!r} in {_shown(facts.name)} is no text"
        return (
            " ".join(caption.split()) or None,
            columns,
            f"no caption in {' or '.join(found)}"
            if found
            else f"neither {_shown(text.name)} nor {_shown(facts.name)} beside it",
        )


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
        return _jobs(rows, cut, fetch, self.captions)

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

    def _row(self, record: dict[str, Any], folder: Path) -> _Row:
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
                key, shown = _address_key(location), _bare(location)
            else:
                key, shown = (
                    PurePosixPath(location).with_suffix("").as_posix() if location else "",
                    _shown(location),
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
            shown = "" if is_url(location) else _shown(location)
            return _Row("", shown, location, text, record, missing, f"the row can't be read: {error}")
        return _Row(key, shown, location, text, record, missing, segment=segment)

    def _file(self) -> Path:
        if self.path is None:
            raise ValueError("data=listing needs the listing: data.path=FILE.csv (or .tsv, .parquet, .jsonl)")
        return Path(self.path).expanduser()


@dataclass(frozen=True, slots=True)
class _Row:
    key: str
    source: str
    location: str
    caption: str | None  # None: there is none; empty: there is one that can't be used
    columns: dict[str, Any]
    why_no_caption: str
    defect: str = ""
    segment: Segment | None = None


def _videos(folder: Path) -> Iterator[Path]:
    """Video files of a folder and below, through links too: a link that leads nowhere is a file that is
    missing, not one that never was."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(root)
        if here in seen:  # a link back up
            folders.clear()
            continue
        seen.add(here)
        folders.sort()
        yield from (path for name in names if (path := Path(root, name)).suffix.lower() in VIDEO_SUFFIXES)


def _there(path: Path) -> bool:
    """Whether there is such a file; a name that is too long for any has none."""
    with suppress(OSError):
        return path.is_file()
    return False


def _shown(name: str) -> str:
    """A file's name in letters that any file can hold: names on a disk are bytes, and may be no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def _jobs(rows: Iterable[_Row], cut: Cut, fetch: Fetch, captions: Captions) -> list[Job | Rejection]:
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
                )
            )
    return out


def _taken(row: _Row, number: int, location: str) -> str:
    told = f"row {number} has the key {safe_key(row.key)!r} already"
    if row.segment is None and row.location == location:
        return f"{told}; data.start_column and data.end_column cut a video by rows"
    return told


def safe_key(text: str) -> str:
    """A key that any tar reader takes: letters, digits, ``_ - /``, the rest percent-encoded, long ones
    shortened by a hash."""
    parts = [p for p in text.split("/") if p not in ("", ".")]
    key = "/".join(
        quote(p, safe="", errors="surrogateescape").replace(".", "%2E").replace("~", "%7E") for p in parts
    )
    if len(key) > LONGEST_KEY:
        key = key[: LONGEST_KEY - 17].rstrip("%/") + "-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    return key


def _address_key(url: str) -> str:
    parts = urlsplit(url)
    query = "-" + hashlib.sha256(parts.query.encode()).hexdigest()[:8] if parts.query else ""
    return f"{parts.hostname or ''}/{PurePosixPath(parts.path.lstrip('/')).with_suffix('') if parts.path.strip('/') else ''}{query}"  # noqa: E501


def _bare(url: str) -> str:
    """The address without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def listing_hash(jobs: Iterable[Job | Rejection]) -> str:
    """sha256 over what every row is, so that a source that changed under a half-finished folder is
    noticed."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(
            json.dumps(
                job.to_dict() if isinstance(job, Rejection) else plain(job.identity()), sort_keys=True
            ).encode()
            + b"\n"
        )
    return digest.hexdigest()
