"""What lies where in a shard: one index file beside each tar, and the checks that a tar made elsewhere must
pass."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vgen.data.files import write_whole

FORMAT = "vgen-shard-index"
VERSION = 1
BLOCK = tarfile.BLOCKSIZE
PICKLES = frozenset({"pickle", "pkl", "pyd", "pth", "pt", "ckpt", "joblib", "dill"})
"""Members that some reader would unpickle, which executes code; no shard of ours may hold one."""


class Member(NamedTuple):
    """Where the bytes of one member lie in the tar, and their crc32."""

    offset: int
    size: int
    crc32: int


class Entry(NamedTuple):
    """One sample: its key and its members by extension. A member's name in the tar is ``key.extension``."""

    key: str
    members: dict[str, Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    shard_size: int
    samples: list[Entry]

    def write(self, tar: Path) -> str:
        """Beside ``tar``; returns the sha256 of the index file."""
        samples = [
            {"key": key, "members": {e: m._asdict() for e, m in members.items()}}
            for key, members in self.samples
        ]
        data = {"format": FORMAT, "version": VERSION, "shard_size": self.shard_size, "samples": samples}
        payload = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
        write_whole(index_path(tar), payload)
        return hashlib.sha256(payload).hexdigest()

    @staticmethod
    def read(tar: Path, sha256: str = "") -> ShardIndex:
        """The index beside ``tar``, checked against the tar's size, against itself and, where it is known,
        against its own sha256."""
        path = index_path(tar)
        if not path.is_file():
            raise ValueError(
                f"shard {tar} has no index {path.name}; make one with vgen.data.index.index_shard, or "
                "prepare the folder again"
            )
        payload = path.read_bytes()
        try:
            index = ShardIndex._from_dict(json.loads(payload.decode("utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"index {path} is damaged or of another kind than {FORMAT} version {VERSION} ({error}); "
                "make it again with vgen.data.index.index_shard"
            ) from error
        if sha256 and hashlib.sha256(payload).hexdigest() != sha256:
            raise ValueError(
                f"index {path} is not the one that was written with its shard: it was changed since; copy or "
                "prepare the folder again"
            )
        size = os.path.getsize(tar) if tar.is_file() else None
        if size != index.shard_size:
            state = "is missing" if size is None else f"has {size:,} bytes"
            raise ValueError(
                f"shard {tar} {state} where its index says {index.shard_size:,}: it was cut or changed; "
                "copy or prepare it again"
            )
        return index

    @staticmethod
    def _from_dict(data: dict[str, Any]) -> ShardIndex:
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it says {data['format']} version {data['version']}")
        entries = [
            Entry(
                s["key"],
                {
                    e: Member(int(m["offset"]), int(m["size"]), int(m["crc32"]))
                    for e, m in s["members"].items()
                },
            )
            for s in data["samples"]
        ]
        index = ShardIndex(shard_size=int(data["shard_size"]), samples=entries)
        _check_entries(index)
        return index


def _check_entries(index: ShardIndex) -> None:
    """Raises ValueError where a key is no plain name or there twice, or where members lie outside the shard
    or on one another."""
    seen, ends = set(), []
    for key, members in index.samples:
        if not isinstance(key, str) or key in seen:
            raise ValueError(f"sample {key!r} is there twice or has no name")
        if leaves_its_folder(key):
            raise ValueError(f"sample {key!r} has a name that leaves its folder")
        seen.add(key)
        for member in members.values():
            if member.offset < BLOCK or member.size < 0 or member.offset + member.size > index.shard_size:
                raise ValueError(f"sample {key!r} lies outside the shard")
            ends.append((member.offset, member.offset + member.size, key))
    ends.sort()
    for (_, end, _), (start, _, key) in pairwise(ends):
        if start < end + BLOCK:  # the header of what follows
            raise ValueError(f"a member of sample {key!r} lies on another one")


def leaves_its_folder(name: str) -> bool:
    """Whether a member's name leads elsewhere than below the folder that it is unpacked into."""
    return name.startswith("/") or ".." in name.replace("\\", "/").split("/") or not _LETTERS.fullmatch(name)


_LETTERS = re.compile(r"[^\x00-\x1f\x7f]*")
"""No control characters: a name with them rewrites the terminal that it is shown on."""


def index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def index_shard(tar: Path) -> ShardIndex:
    """Read a tar that any tool may have made, refuse what is not a plain, whole shard, and return its index
    (not yet written)."""
    entries: dict[str, Entry] = {}
    last = None
    for name, offset, payload in _members(tar):
        key, extension = split_name(name)
        if extension.rsplit(".", 1)[-1] in PICKLES:
            raise ValueError(
                f"shard {tar} holds the pickle {name!r}, which would execute code when read; write it again "
                "without"
            )
        if last != key and key in entries:
            raise ValueError(
                f"shard {tar} holds the sample {key!r} twice; keys must be unique and the members of a "
                "sample adjacent"
            )
        members = entries.setdefault(key, Entry(key, {})).members
        if extension in members:
            raise ValueError(f"shard {tar} holds the member {name!r} twice; write it again with unique keys")
        members[extension] = Member(offset, len(payload), zlib.crc32(payload))
        last = key
    if not entries:
        raise ValueError(f"shard {tar} holds no sample; remove it")
    return ShardIndex(shard_size=os.path.getsize(tar), samples=list(entries.values()))


def split_name(name: str) -> tuple[str, str]:
    """Key and extension as WebDataset cuts them: at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def padded(size: int) -> int:
    """The room that ``size`` bytes take in a tar."""
    return -(-size // BLOCK) * BLOCK


def _members(tar: Path) -> Iterator[tuple[str, int, bytes]]:
    end = 0
    size = os.path.getsize(tar)
    try:
        with open(tar, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                _check_member(tar, info, size)
                end = info.offset_data + padded(info.size)
                if info.isdir():
                    continue
                back = file.tell()  # tarfile goes on from here
                file.seek(info.offset_data)
                payload = file.read(info.size)
                file.seek(back)
                yield info.name, info.offset_data, payload
            file.seek(end)
            if file.read(2 * BLOCK) != bytes(2 * BLOCK):
                raise ValueError(
                    f"shard {tar} was cut: the two empty blocks that end every tar are missing after byte "
                    f"{end:,}; copy it again"
                )
    except tarfile.TarError as error:
        raise ValueError(f"shard {tar} is cut or no tar ({error}); copy it again") from error


def _check_member(tar: Path, info: tarfile.TarInfo, size: int) -> None:
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise ValueError(
            f"shard {tar} holds {info.name!r}, which is a link or a device and no plain file; write it "
            "again without"
        )
    if leaves_its_folder(info.name):
        raise ValueError(
            f"shard {tar} holds {info.name!r}, a name that leaves its folder; write it again with relative "
            "names"
        )
    if info.offset_data + info.size > size:
        raise ValueError(
            f"shard {tar} was cut inside {info.name!r}, which should end at byte "
            f"{info.offset_data + info.size:,} "
            f"of {size:,}; copy it again"
        )
