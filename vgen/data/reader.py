"""Shards in: a map-style sequence of samples, read by offset, every byte checked."""

from __future__ import annotations

import bisect
import copy
import logging
import os
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from vgen.data.fields import Needs, extensions
from vgen.data.index import Entry, Member, ShardIndex
from vgen.data.manifest import Manifest
from vgen.data.sample import Sample, unpack, unpack_metadata

log = logging.getLogger(__name__)
MAX_OPEN = 64
"""Shards a process keeps open at once."""


class ShardReader:
    """A folder of shards as a sequence: ``len(reader)``, ``reader[i] -> Sample``, in the order in which they
    were written.

    Opening checks manifest, indexes and sizes, so a missing or cut shard is found before training, not during
    it. Files are opened lazily and read with ``pread``, which has no position: a reader may be pickled,
    forked and shared by threads.
    """

    def __init__(self, folder: str | os.PathLike[str], needs: Needs | None = None) -> None:
        """Members that ``needs`` (by default video and caption) does not name are never read."""
        self.folder, self.needs = Path(folder), needs or Needs()
        self.manifest = Manifest.read(self.folder)
        if not self.manifest.shards:
            raise ValueError(f"{self.folder} lists no shard; delete it and prepare it again")
        self.indexes = [
            ShardIndex.read(self.folder / shard.name, shard.index_sha256) for shard in self.manifest.shards
        ]
        for shard, index in zip(self.manifest.shards, self.indexes, strict=True):
            if (shard.size, shard.num_samples) != (index.shard_size, len(index.samples)):
                raise ValueError(
                    f"shard {self.folder / shard.name} has {len(index.samples)} samples in "
                    f"{index.shard_size:,} bytes "
                    f"where the manifest says {shard.num_samples} in {shard.size:,}; delete the folder and "
                    "prepare it again"
                )
        self._ends = list(accumulate(len(index.samples) for index in self.indexes))
        self._files: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> Sample:
        shard, entry = self._locate(i)
        taken = {"json", *self.needs.members(entry.members).values()}
        members = {
            e: self._read(shard, f"{entry.key}.{e}", m) for e, m in entry.members.items() if e in taken
        }
        try:
            return unpack(entry.key, members, self.needs)
        except ValueError as error:
            raise ValueError(f"shard {self._path(shard)}: {error}") from error

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @property
    def content_hash(self) -> str:
        return self.manifest.content_hash

    def key(self, i: int) -> str:
        """The sample's id, without reading it."""
        return self._locate(i)[1].key

    def metadata(self, i: int) -> dict[str, Any]:
        """The sample's metadata; nothing else of it is read."""
        shard, entry = self._locate(i)
        try:
            return unpack_metadata(entry.key, self._read(shard, f"{entry.key}.json", entry.members["json"]))
        except KeyError as error:
            raise ValueError(f"shard {self._path(shard)}: sample {entry.key!r} has no .json") from error

    def reading(self, needs: Needs) -> ShardReader:
        """The same shards, read for other needs; it opens files of its own."""
        other = copy.copy(self)
        other.needs = needs
        return other

    def check(self, rows: Sequence[int]) -> None:
        """Raises ValueError where a sample of ``rows`` lacks what is required; only indexes are looked at."""
        lacking = Counter[str]()
        first: dict[str, str] = {}
        for row in rows:
            entry = self._locate(row)[1]
            for name in self.needs.lacking(entry.members):
                lacking[name] += 1
                first.setdefault(name, entry.key)
        for name, count in lacking.items():
            members = " or ".join(f".{e}" for e in extensions(name))
            raise ValueError(
                f"sample {first[name]!r} of {self.folder} has no {name} ({members}), which is required and "
                f"which {count} of {len(rows)} samples lack; add it to the shards, or train without {name}"
            )

    def name_unread(self) -> None:
        """One line in the log that names the members that stay closed, by extension, and how many."""
        closed = Counter(
            e for index in self.indexes for _, members in index.samples for e in self.needs.unread(members)
        )
        if closed:
            told = ", ".join(f"{count:,} .{e}" for e, count in sorted(closed.items()))
            log.info("%s: members that nothing here reads: %s", self.folder, told)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def _locate(self, i: int) -> tuple[int, Entry]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)} in {self.folder}")
        i %= len(self)
        shard = bisect.bisect_right(self._ends, i)
        return shard, self.indexes[shard].samples[i - self._ends[shard]]

    def _path(self, shard: int) -> Path:
        return self.folder / self.manifest.shards[shard].name

    def _read(self, shard: int, name: str, member: Member) -> bytes:
        if shard not in self._files:
            self._files[shard] = os.open(self._path(shard), os.O_RDONLY)
            if len(self._files) > MAX_OPEN:
                os.close(self._files.popitem(last=False)[1])
        payload = os.pread(self._files[shard], member.size, member.offset)
        if zlib.crc32(payload) != member.crc32 or len(payload) != member.size:
            raise ValueError(
                f"shard {self._path(shard)}: {name} differs from its checksum, so the shard was damaged "
                "after it was written; copy or prepare it again"
            )
        return payload
