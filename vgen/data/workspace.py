"""What a half-finished folder holds, so that a run killed at any moment goes on where it was: results per
row, a record per shard."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from vgen.data.files import write_json
from vgen.data.ledger import Rejection
from vgen.data.manifest import is_whole
from vgen.data.writer import Shard

WORK = ".work"
_PATIENCE_SECONDS = 2.0


@dataclass(slots=True, kw_only=True)
class Counts:
    files: int = 0
    rejected: int = 0
    clips: int = 0
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the shards stand: the next row, the next of its clips, and what has been counted so far."""

    row: int = 0
    clip: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What a worker made of one row: its samples, as places in a spool file beside this record, or a
    rejection."""

    row: int
    samples: list[dict[str, Any]]
    rejection: Rejection | None = None


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Workspace:
    """The hidden folder beside the shards. ``rows/`` holds finished rows that no shard holds yet;
    ``scratch-*`` what workers are at."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / WORK
        self.rows = self.path / "rows"
        self.scratch = self.path / f"scratch-{os.getpid()}-{os.urandom(4).hex()}"
        self.begun = self.path / "begun.json"
        self._lock: IO[str] | None = None

    def open(self, facts: dict[str, Any]) -> None:
        """Begin the folder with ``facts``, or go on with one that was begun with the same; clear what a
        killed run left half done."""
        self.rows.mkdir(parents=True, exist_ok=True)
        self._hold(fcntl.LOCK_EX)
        for old in self.path.glob("scratch-*"):
            shutil.rmtree(old)
        for half in [*self.folder.glob(".*.tmp"), *self.path.glob(".*.tmp")]:
            half.unlink()
        self.scratch.mkdir()
        if not self.begun.is_file():
            write_json(self.begun, facts)
        for record in self.rows.glob("*.json"):
            if not self._worth_keeping(int(record.stem)):
                record.unlink()

    def join(self, facts: dict[str, Any]) -> None:
        """Add rows beside others that do, each with a scratch of its own; nobody makes shards meanwhile."""
        self.rows.mkdir(parents=True, exist_ok=True)
        self._hold(fcntl.LOCK_SH)
        self.scratch.mkdir()
        if not self.begun.is_file():
            write_json(self.begun, facts)

    def facts(self) -> dict[str, Any] | None:
        return json.loads(self.begun.read_text(encoding="utf-8")) if self.begun.is_file() else None

    def release(self) -> None:
        """Let others in; what was done stays for the next run."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def _hold(self, how: int) -> None:
        """Take the folder's lock, alone or with others. The system releases it when this process
        ends, however it ends.

        A process that was killed while it started another one leaves the lock with that one for a moment.
        """
        self._lock = (self.path / "lock").open("a+")  # a network file system shares it among readers alone
        end = time.monotonic() + _PATIENCE_SECONDS
        while not _locked(self._lock, how):
            if time.monotonic() > end:
                raise ValueError(
                    f"another vgen prepare is at work in {self.folder}; wait for it or choose another out="
                )
            time.sleep(0.1)

    def _worth_keeping(self, row: int) -> bool:
        """Rows are not flushed to the disk one by one: after a power cut they may be damaged, and are then
        made again."""
        try:
            result = self.read_row(row)
            for _ in self.read_samples(result):
                pass
        except (OSError, ValueError, KeyError):
            return False
        return result.rejection is None or not result.rejection.reason.passing

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def commit_shard(self, shard: Shard, position: Position, rejections: list[Rejection]) -> None:
        """From now on the shard counts, and its rows are not needed again."""
        record = {
            "shard": asdict(shard),
            "position": asdict(position),
            "rejections": [r.to_dict() for r in rejections],
        }
        write_json(self.path / f"{shard.name}.json", record)
        self.drop_rows(position.row)

    def shards(self) -> tuple[list[Shard], Position, list[Rejection]]:
        """The shards that count, where the next one begins, and the rejections up to there; anything later is
        removed.

        Those that count are whole and have no gap before them: after a lost one everything is made again.
        """
        shards: list[Shard] = []
        rejections: list[Rejection] = []
        position = Position()
        paths = sorted(self.path.glob("shard-*.tar.json"))
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        whole = list(takewhile(lambda record: is_whole(self.folder, Shard(**record["shard"])), records))
        for path in reversed(paths[len(whole) :]):  # the last first, so that a kill in between leaves no gap
            path.unlink()
        for record in whole:
            shards.append(Shard(**record["shard"]))
            position = Position(**{**record["position"], "counts": Counts(**record["position"]["counts"])})
            rejections += map(Rejection.from_dict, record["rejections"])
        names = {s.name for s in shards}
        for tar in self.folder.glob("shard-*.tar"):
            if tar.name not in names:
                tar.unlink()
        return shards, position, rejections

    def has_row(self, row: int) -> bool:
        return self._record(row).is_file()

    def write_row(self, result: RowResult, spool: Path | None) -> None:
        """Commit a row; its spool, if it has one, moves in first."""
        if spool is not None:
            os.replace(spool, self._spool(result.row))
        data = {
            "row": result.row,
            "samples": result.samples,
            "rejection": result.rejection and result.rejection.to_dict(),
        }
        half = self.scratch / "record"
        half.write_text(json.dumps(data))
        os.replace(half, self._record(result.row))

    def read_row(self, row: int) -> RowResult:
        data = json.loads(self._record(row).read_text())
        return RowResult(
            row=row,
            samples=data["samples"],
            rejection=data["rejection"] and Rejection.from_dict(data["rejection"]),
        )

    def read_samples(
        self, result: RowResult, first: int = 0
    ) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
        if not result.samples:
            return
        with open(self._spool(result.row), "rb") as file:
            for sample in result.samples[first:]:
                members = {}
                for extension, (offset, size, crc32) in sample["members"].items():
                    file.seek(offset)
                    members[extension] = file.read(size)
                    if zlib.crc32(members[extension]) != crc32:
                        raise ValueError(
                            f"{self._spool(result.row)} was damaged while it lay there; the same command "
                            "makes it again"
                        )
                yield sample, members

    def drop_rows(self, before: int) -> None:
        for path in self.rows.iterdir():
            if int(path.stem) < before:
                path.unlink()

    def _record(self, row: int) -> Path:
        return self.rows / f"{row:09d}.json"

    def _spool(self, row: int) -> Path:
        return self.rows / f"{row:09d}.spool"
