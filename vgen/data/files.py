"""Files that are either whole or absent: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, payload: bytes) -> None:
    with open(path.with_name(f".{path.name}.tmp"), "wb") as file:
        file.write(payload)
        put_in_place(file, path)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def put_in_place(file: IO[bytes], path: Path) -> None:
    """Rename an open, fully written temporary file; the name survives a power cut because its folder is flushed too."""
    file.flush()
    os.fsync(file.fileno())
    os.replace(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
