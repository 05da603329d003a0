"""A W&B run that is recorded offline in several parts, as one folder.

W&B begins a new folder, with steps from 0, whenever an offline run goes on, because it asks no server where
the run stood. Parts of one id are joined: each row of figures once, in the order of its step. A ``.wandb``
file is W&B's header and the log format of LevelDB, whose records are W&B's own protocol buffers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgen.data.files import write_whole

log = logging.getLogger(__name__)
HEADER = b":W&B\xe1\xbe\x00"
BLOCK, CHUNK_HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
STEP, TIME, GLOBAL_STEP = "_step", "_timestamp", "trainer/global_step"
_OF_ONE_PART = {"header", "exit", "final", "footer", "preempting"}
"""Kinds of records that a run has once; of the first part, or of the last."""
END_SECONDS = 20.0


# -- the file ------------------------------------------------------------------------------------------------
def read_records(path: Path) -> Iterator[bytes]:
    """Whole records; a file that a killed process left ends at its last whole one."""
    data, at, parts = path.read_bytes(), len(HEADER), b""
    while at + CHUNK_HEADER <= len(data):
        if BLOCK - at % BLOCK < CHUNK_HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        chunk = data[at + CHUNK_HEADER : at + CHUNK_HEADER + length]
        if int.from_bytes(data[at : at + 4], "little") != zlib.crc32(bytes([kind]) + chunk):
            return
        at += CHUNK_HEADER + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield parts


def framed(records: Iterable[bytes]) -> bytes:
    """A whole file of these records."""
    out = bytearray(HEADER)
    for record in records:
        rest, begun = record, False
        while rest or not begun:
            room = BLOCK - len(out) % BLOCK
            if room < CHUNK_HEADER:
                out += bytes(room)
                room = BLOCK
            chunk, rest = rest[: room - CHUNK_HEADER], rest[room - CHUNK_HEADER :]
            kind = (MIDDLE if rest else LAST) if begun else (FIRST if rest else FULL)
            check = zlib.crc32(bytes([kind]) + chunk)
            out += check.to_bytes(4, "little") + len(chunk).to_bytes(2, "little") + bytes([kind]) + chunk
            begun = True
    return bytes(out)


# -- parts of a run ------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Part:
    """One folder's records, decoded."""

    file: Path
    records: list[Any]

    def steps(self) -> list[int]:
        return [record.history.step.num for record in self.records if record.HasField("history")]

    def is_in(self, other: _Part) -> bool:
        """Whether its rows are in another already: a process was killed before it removed what it joined."""
        own, theirs = _times(self.records), _times(other.records)
        return bool(own) and own <= theirs

    def has_ended(self) -> bool:
        return any(record.HasField("exit") for record in self.records)

    def names_at(self, step: int) -> set[str]:
        """Figures of one training step."""
        rows = [r for r in self.records if r.HasField("history") and _global_step(r) == step]
        return {name for row in rows for name in _figures(row)}

    def begins_at(self) -> int | None:
        """The first training step of which it holds figures."""
        found = [_global_step(record) for record in self.records if _figures(record)]
        return min((step for step in found if step is not None), default=None)


def parts_of(folder: Path, run_id: str) -> list[Path]:
    """The ``.wandb`` files of a run that was recorded in ``folder`` offline and that nobody has uploaded, the
    oldest first."""
    found = sorted(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    return [path for path in found if not path.with_name(f"{path.name}.synced").exists()]


def next_step(folder: Path, run_id: str) -> int:
    """The step at which W&B's own count has to go on; 0 where nothing is recorded yet."""
    found = [max(_read(path).steps(), default=-1) for path in parts_of(folder, run_id)]
    return max(found, default=-1) + 1


def await_end(folder: Path, run_id: str, seconds: float = END_SECONDS) -> None:
    """W&B closes a run before the last of it is in its file: waits until it is there."""
    latest = parts_of(folder, run_id)[-1:]
    until = time.monotonic() + seconds
    while latest and not _read(latest[0]).has_ended() and time.monotonic() < until:
        time.sleep(0.05)


def join(folder: Path, run_id: str) -> None:
    """Make one folder of all parts. The first gets everything, the others go once it is written."""
    files = parts_of(folder, run_id)
    if len(files) < 2:
        return
    first, *others = [_read(path) for path in files]
    parts = [first, *(part for part in others if not part.is_in(first))]
    write_whole(first.file, framed(record.SerializeToString() for record in _joined(parts)))
    home = first.file.parent
    for file in files[1:]:
        _move_media(file.parent / "files", home / "files")
        shutil.rmtree(file.parent)
    _point_to(folder / "wandb" / "latest-run", home)
    log.info("W&B: %d parts of the run are one now, under %s", len(files), home)


def _read(path: Path) -> _Part:
    from wandb.proto import wandb_internal_pb2

    kinds: Any = wandb_internal_pb2  # made by a program, without types
    return _Part(path, [kinds.Record.FromString(data) for data in read_records(path)])


def _joined(parts: Sequence[_Part]) -> Iterator[Any]:
    """Records of all parts: what a later part has drawn again is left out of the earlier, and W&B's steps and
    the numbers of records go on through all."""
    step, number = 0, 0
    for place, part in enumerate(parts):
        again = _Again.of(parts[place + 1 :])
        for record in part.records:
            if not _stays(record, place, len(parts)) or again.holds(record):
                continue
            for one in _as_later(record) if place else (record,):
                if one.HasField("history"):
                    _renumber(one.history, step)
                    step += 1
                number += 1
                one.num = number
                yield one


@dataclass(frozen=True, slots=True)
class _Again:
    """What later parts have drawn again: all after training step ``begins_at``, and of that step ``names``.
    Clips that were drawn after it have its number too, and stay."""

    begins_at: int | None
    names: set[str]

    @classmethod
    def of(cls, later: Sequence[_Part]) -> _Again:
        begins_at = min((at for part in later if (at := part.begins_at()) is not None), default=None)
        if begins_at is None:
            return cls(None, set())
        return cls(begins_at, {name for part in later for name in part.names_at(begins_at)})

    def holds(self, record: Any) -> bool:
        at = _global_step(record) if record.HasField("history") else None
        if at is None or self.begins_at is None:
            return False
        return at > self.begins_at or (at == self.begins_at and not self.names.isdisjoint(_figures(record)))


def _stays(record: Any, place: int, count: int) -> bool:
    kind = record.WhichOneof("record_type")
    if kind in _OF_ONE_PART:
        return place == (0 if kind == "header" else count - 1)
    return kind != "history" or bool(_figures(record)) or _global_step(record) is None


def _as_later(record: Any) -> Iterator[Any]:
    """A record of a part that is not the first: what its run says anew are settings alone."""
    if not record.HasField("run"):
        yield record
    elif record.run.HasField("config"):
        told = type(record)()
        told.config.CopyFrom(record.run.config)
        yield told


def _renumber(history: Any, step: int) -> None:
    history.step.num = step
    for item in history.item:
        if _name(item) == STEP:
            item.value_json = json.dumps(step)


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _times(records: Iterable[Any]) -> set[str]:
    """When its rows were written, as W&B wrote it."""
    items = [item for record in records if record.HasField("history") for item in record.history.item]
    return {item.value_json for item in items if _name(item) == TIME}


def _global_step(record: Any) -> int | None:
    values = [item.value_json for item in record.history.item if _name(item) == GLOBAL_STEP]
    return int(json.loads(values[0])) if values else None


def _figures(record: Any) -> set[str]:
    """Names of what a row says beside its steps and times."""
    names = {_name(item) for item in record.history.item}
    return {name for name in names if name != GLOBAL_STEP and not name.startswith("_")}


def _move_media(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        if path.is_file() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, there)


def _point_to(link: Path, folder: Path) -> None:
    if link.is_symlink():
        link.unlink()
        link.symlink_to(folder.name, target_is_directory=True)
