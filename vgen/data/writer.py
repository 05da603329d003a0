"""Shards out: plain WebDataset tars whose bytes depend on the samples alone."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from vgen.data.files import put_in_place
from vgen.data.index import BLOCK, Entry, Member, ShardIndex, padded

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A finished shard, as the manifest lists it."""

    name: str
    size: int
    num_samples: int
    sha256: str
    index_sha256: str = ""  # of the index beside it; folders of older versions have none


class ShardWriter:
    """Writes samples to ``shard-000000.tar ...`` of at most ``shard_bytes`` each (one larger sample has a
    shard to itself).

    A shard appears under its name only when it is whole and on the disk, its index beside it. Owner, mode and
    time are constant.
    """

    def __init__(self, folder: Path, shard_bytes: int, first_shard: int = 0) -> None:
        self.folder, self.shard_bytes, self.number = folder, shard_bytes, first_shard
        self.shards: list[Shard] = []
        self._entries: list[Entry] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:  # what is not whole gets no name
            self._file.close()
            self._file = None

    def write(self, key: str, members: Mapping[str, bytes]) -> Shard | None:
        """Append one sample; returns the shard that had to be finished first to make room, if one had."""
        needed = sum(BLOCK + padded(len(payload)) for payload in members.values())
        finished = None
        if self._entries and self._offset + needed + 2 * BLOCK > self.shard_bytes:
            finished = self.close()
        if self._file is None:
            self._open()
        places = {}
        for extension, payload in members.items():
            self._append(_header(f"{key}.{extension}", len(payload)))
            places[extension] = Member(self._offset, len(payload), zlib.crc32(payload))
            self._append(payload + bytes(padded(len(payload)) - len(payload)))
        self._entries.append(Entry(key, places))
        return finished

    def close(self) -> Shard | None:
        """Finish the open shard, if there is one."""
        if self._file is None:
            return None
        self._append(bytes(2 * BLOCK))
        path = self.folder / f"shard-{self.number:06d}.tar"
        index_sha256 = ShardIndex(shard_size=self._offset, samples=self._entries).write(path)
        with self._file as file:
            put_in_place(file, path)
        self.shards.append(
            Shard(
                name=path.name,
                size=self._offset,
                num_samples=len(self._entries),
                sha256=self._hash.hexdigest(),
                index_sha256=index_sha256,
            )
        )
        self._file, self._entries = None, []
        self.number += 1
        return self.shards[-1]

    def _open(self) -> None:
        self._file = (self.folder / f".shard-{self.number:06d}.tar.tmp").open("wb")
        self._hash, self._offset = hashlib.sha256(), 0

    def _append(self, payload: bytes) -> None:
        assert self._file is not None
        self._file.write(payload)
        self._hash.update(payload)
        self._offset += len(payload)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
