"""The manifest: what a folder of shards was made from, how, and what is in it. Written last, so a folder that
has one is whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vgen.data.files import write_json
from vgen.data.writer import Shard

MANIFEST = "manifest.json"
FORMAT = "vgen-shards"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    source: dict[str, Any]
    settings: dict[str, Any]
    counts: dict[str, Any]
    shards: list[Shard]
    vgen_version: str

    @property
    def content_hash(self) -> str:
        """sha256 over the names of all shards and the sha256 of each and of its index, where it has one."""
        lines = [" ".join(filter(None, (s.name, s.sha256, s.index_sha256))) + "\n" for s in self.shards]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        write_json(
            folder / MANIFEST,
            {"format": FORMAT, "version": VERSION, **asdict(self), "content_hash": self.content_hash},
        )

    @staticmethod
    def read(folder: Path) -> Manifest:
        path = folder / MANIFEST
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give the one that 'vgen prepare' wrote")
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no finished shards: it has no {MANIFEST}; finish it with the same 'vgen "
                "prepare' command that began it"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            kind, claimed = (data.pop("format"), data.pop("version")), data.pop("content_hash")
            manifest = Manifest(**{**data, "shards": [Shard(**s) for s in data["shards"]]})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"manifest {path} is damaged ({error}); delete the folder and prepare it again"
            ) from error
        if kind != (FORMAT, VERSION):
            raise ValueError(
                f"manifest {path} is of kind {kind[0]} version {kind[1]} where {FORMAT} version {VERSION} "
                "is read; "
                "delete the folder and prepare it again"
            )
        if claimed != manifest.content_hash:
            raise ValueError(
                f"manifest {path} was changed: its content hash does not follow from its shards; delete the "
                "folder and prepare it again"
            )
        _check_names(path, manifest.shards)
        return manifest


def check_sizes(folder: Path, shards: Sequence[Shard]) -> None:
    """Refuse a finished folder whose shards are not all there, at their size; what is in them is checked
    where they are read."""
    bad = [s.name for s in shards if not is_whole(folder, s)]
    if bad:
        raise ValueError(
            f"{folder} was complete, and since then {', '.join(bad)} was cut, changed or lost; delete the "
            "folder and prepare it again"
        )


def is_whole(folder: Path, shard: Shard) -> bool:
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.size


def _check_names(path: Path, shards: Sequence[Shard]) -> None:
    bad = [s.name for s in shards if not re.fullmatch(r"[\w-][\w.-]*\.tar", s.name)]
    if bad:
        raise ValueError(
            f"manifest {path} names shards that are no plain .tar beside it: {', '.join(map(repr, bad))}; "
            "delete the folder and prepare it again"
        )
