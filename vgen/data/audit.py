"""The audit ledger: which samples every rank of a run trained on, and whether each came once an epoch.

Its folder holds ``samples.json``, what there is to train on, and a file ``rank-N.jsonl`` of each rank. A line
is a batch, ``{"step": 3, "rank": 0, "samples": [["clip-7", 0], ["clip-2", 1]]}`` with the step it counts for
(the first is 1) and each sample's id and epoch; or the step from which the run went on, ``{"resumed": 2}``:
what stands above it of later steps is superseded. Lines are added and flushed one by one, never changed.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vgen.data.files import write_whole

AUDIT, SAMPLES = "audit", "samples.json"
"""The folder's name in a run, and that of its file of ids."""
FORMAT = "vgen-audit-1"
MOST_NAMED = 20

Key = tuple[str, int]
"""A sample's id and the epoch."""
Batch = tuple[int, list[Key]]
"""The step that it counts for, and its samples."""


class Ledger:
    """The file of one rank, to which lines are added. Half a line that a killed process left is cut off.

    Lines that the disk refuses are kept, and tried again with the next one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._size, self._pending = -1, 0, b""

    def add(self, line: Mapping[str, Any]) -> None:
        """Raises OSError where the disk refuses."""
        self._pending += json.dumps(line).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what is pending and flush it to the disk; raises OSError where the disk refuses."""
        if not self._pending:
            return
        if self._file < 0:
            self._open()
        os.ftruncate(self._file, self._size)  # of what was refused a part may be there
        left = memoryview(self._pending)
        while left:
            left = left[os.write(self._file, left) :]
        os.fsync(self._file)
        self._size += len(self._pending)
        self._pending = b""

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = _whole_lines(self._file)


def _whole_lines(file: int) -> int:
    """Bytes up to the end of the last whole line."""
    end, block = os.fstat(file).st_size, 2**16
    while end > 0:
        begin = max(0, end - block)
        if (found := os.pread(file, end - begin, begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        end = begin
    return 0


# -- what there is to train on -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Population:
    """The ids of each corpus by its name, and how many samples all ranks together train on in a step."""

    ids: dict[str, list[str]]
    per_step: int

    def __post_init__(self) -> None:
        counts = Counter(id_ for ids in self.ids.values() for id_ in ids)
        if twice := [id_ for id_, count in counts.items() if count > 1]:
            raise ValueError(
                f"data.audit=true tells samples by their ids, and {counts[twice[0]]} samples have the id "
                f"{twice[0]!r}; leave it out, or prepare them with ids of their own"
            )

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"format": FORMAT, "per_step": self.per_step, "ids": self.ids}
        write_whole(folder / SAMPLES, json.dumps(told).encode())

    def told(self) -> str:
        return f"{', '.join(f'{len(ids)} {name}' for name, ids in self.ids.items())}, {self.per_step} a step"

    @staticmethod
    def read(folder: Path) -> Population:
        """Raises ValueError where there is none, or none of this format."""
        try:
            found = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']!r:.40}, this vgen reads {FORMAT}")
            ids = {str(name): [str(id_) for id_ in ids] for name, ids in found["ids"].items()}
            return Population(ids, int(found["per_step"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / SAMPLES} is no list of what a run trains on ({error}); only a run that was "
                "trained with data.audit=true has one"
            ) from error


def mark_resumed(folder: Path, step: int) -> None:
    """Supersede what every rank wrote of the steps after ``step``, of ranks that are no more, too."""
    for path in sorted(folder.glob("rank-*.jsonl")):
        ledger = Ledger(path)
        ledger.add({"resumed": step})
        ledger.close()


# -- reading -------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Audit:
    """What a ledger says of the steps up to ``step``. Names are ``id (epoch N)``."""

    step: int
    population: Population
    epochs: dict[str, dict[int, Counter[str]]] = field(default_factory=dict)
    by_step: Counter[int] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)

    @staticmethod
    def of(folder: Path, step: int) -> Audit:
        """Raises ValueError where a line is none of a ledger."""
        audit = Audit(step, Population.read(folder))
        audit.epochs = {name: defaultdict(Counter) for name in audit.population.ids}
        corpus_of = {id_: name for name, ids in audit.population.ids.items() for id_ in ids}
        for path in sorted(folder.glob("rank-*.jsonl")):
            for at, keys in _standing(path):
                if at <= step:
                    audit._count(at, keys, corpus_of)
        return audit

    def _count(self, step: int, keys: Sequence[Key], corpus_of: Mapping[str, str]) -> None:
        self.by_step[step] += len(keys)
        for id_, epoch in keys:
            if id_ in corpus_of:
                self.epochs[corpus_of[id_]][epoch][id_] += 1
            else:
                self.unknown.append(_named(id_, epoch))

    def lost(self) -> list[str]:
        """Samples that an epoch lacks though a later one has begun."""
        return [
            _named(id_, epoch)
            for name, epochs in self.epochs.items()
            for epoch in range(max(epochs, default=0))
            for id_ in self.population.ids[name]
            if id_ not in epochs.get(epoch, ())
        ]

    def repeated(self) -> list[str]:
        return [
            f"{_named(id_, epoch)} {count} times"
            for epochs in self.epochs.values()
            for epoch, counts in sorted(epochs.items())
            for id_, count in counts.items()
            if count > 1
        ]

    def uneven(self) -> list[str]:
        """Steps with another number of samples than each has."""
        want, have = self.population.per_step, self.by_step
        uneven = [n for n in range(1, self.step + 1) if have[n] != want]
        return [f"step {n} has {have[n]} of its {want} samples" for n in uneven]

    def told(self) -> str:
        """One sentence. Raises ValueError, with names, where a sample is lost, repeated or unknown."""
        faults = (
            ("lost", self.lost()),
            ("repeated", self.repeated()),
            ("not of the corpus", self.unknown),
        )
        wrong = [f"{len(names)} {what}: {_listed(names)}" for what, names in faults if names]
        if uneven := self.uneven():
            wrong.append(_listed(uneven))
        if wrong:
            raise ValueError(f"up to step {self.step}: {'; '.join(wrong)}")
        parts = {name: _counts(self.epochs[name], len(ids)) for name, ids in self.population.ids.items()}
        told = "; ".join(f"{name}: {part}" if len(parts) > 1 else part for name, part in parts.items())
        return f"{told}, none lost, none repeated, up to step {self.step}"


def _counts(epochs: Mapping[int, Counter[str]], num_ids: int) -> str:
    seen, begun = sum(counts.total() for counts in epochs.values()), len(epochs)
    rest = f" (of the last {seen % num_ids:,} of {num_ids:,})" if seen % num_ids else ""
    return f"{seen:,} samples in {begun} {'epoch' if begun == 1 else 'epochs'}{rest}"


def _named(id_: str, epoch: int) -> str:
    return f"{id_} (epoch {epoch})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _standing(path: Path) -> list[Batch]:
    """The batches of one rank that are not superseded. Half a line at the end is what a process was killed
    in, before its step."""
    out: list[Batch] = []
    *whole, _ = path.read_bytes().split(b"\n")
    for number, payload in enumerate(whole, start=1):
        try:
            found = _parsed(payload)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {path} is none of an audit ledger ({type(error).__name__}): it was "
                "altered, and nothing can be said of the run's samples"
            ) from error
        if isinstance(found, int):
            out = [batch for batch in out if batch[0] <= found]
        else:
            out.append(found)
    return out


def _parsed(payload: bytes) -> Batch | int:
    """A batch, or the step from which the run went on."""
    line = json.loads(payload)
    if "resumed" in line:
        return int(line["resumed"])
    return int(line["step"]), [(str(id_), int(epoch)) for id_, epoch in line["samples"]]
