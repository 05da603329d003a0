"""Files that are either whole or absent: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import IO, Any

_NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "ENAMETOOLONG")
_REFUSALS = {getattr(errno, name) for name in _NAMES}


def write_whole(path: Path, payload: bytes) -> None:
    with open(path.with_name(f".{path.name}.tmp"), "wb") as file:
        file.write(payload)
        put_in_place(file, path)


def is_disks_fault(error: BaseException) -> bool:
    """Whether a place to write to refused: full, over quota, read-only, not ours, no folder."""
    return isinstance(error, OSError) and error.errno in _REFUSALS


def write_json(path: Path, value: Any) -> None:
    write_whole(
        path,
        (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "backslashreplace"
        ),
    )


def lines_of(text: str) -> list[str]:
    """Lines that are not blank, cut at newlines alone.

    ``str.splitlines`` also cuts at marks that a prompt may hold, such as U+2028.
    """
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip()]


def put_in_place(file: IO[bytes], path: Path) -> None:
    """Rename an open, fully written temporary file; the name survives a power cut because its folder is
    flushed too."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
