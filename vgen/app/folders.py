"""Folders that one run writes and no other: named by one safe word, claimed before minutes are spent, never
overwritten, gone again where nothing came."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLAIM = ".drawing"
"""In a folder into which a run draws, until it ends."""
_LONGEST = 200
"""Bytes of a name: file systems take 255, and what vgen adds has to fit."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|multirun", re.IGNORECASE)
"""Devices of Windows, and the folder of ``--multirun``."""


def refuse_unsafe_name(name: str, key: str) -> None:
    """Raises ValueError where ``name``, the value of setting ``key``, is not one folder below the one it
    belongs to: settings come from files of others, too."""
    if lack := _lack(name):
        raise ValueError(
            f"{key} names one folder and {lack}, got {name!r}; use letters, digits, - _ and . alone"
        )


def _lack(name: str) -> str | None:
    """What speaks against a name, in words."""
    if "/" in name or "\\" in name:
        return "holds no / or \\"
    if any(unicodedata.category(letter).startswith("C") for letter in name):
        return "holds no control characters"
    if name != name.strip(" .") or name.startswith(("-", "~")):
        return "neither starts nor ends with a dot or a blank, nor starts with - or ~"
    if _RESERVED.fullmatch(name):
        return "is not a reserved word"
    if len(name.encode()) > _LONGEST:
        return f"has at most {_LONGEST} bytes"
    return None


@contextmanager
def claimed(named: str | Path, prefix: str = "") -> Iterator[Path]:
    """An empty folder, into which no other run draws until the block ends; a new one that stays empty goes
    again.

    Without a name it is called by ``prefix`` and the time. Raises ValueError where it is not empty or another
    run's.
    """
    new, out = (
        not str(named) or not Path(named).exists(),
        Path(named) if str(named) else _of_this_second(prefix),
    )
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; choose another folder, nothing is overwritten")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} can't be made ({error.strerror}); choose another place") from error
    claim = out / CLAIM
    try:
        claim.touch(exist_ok=False)
    except (FileExistsError, FileNotFoundError) as error:  # the other run holds it, or has just given it up
        raise ValueError(
            f"another run draws into out={out}; choose another folder, or remove {claim} if no run is at work"
        ) from error
    try:
        if any(path != claim for path in out.iterdir()):
            raise ValueError(f"out={out} is not empty; choose another folder, nothing is overwritten")
        yield out
    finally:
        claim.unlink(missing_ok=True)
        if new:
            with suppress(OSError):  # it holds clips
                out.rmdir()


def _of_this_second(prefix: str) -> Path:
    """A new folder, numbered where another run of the same second has its name."""
    stamp, number = f"outputs/{prefix}{time.strftime('%Y%m%d-%H%M%S')}", 1
    while True:
        out = Path(stamp if number == 1 else f"{stamp}-{number}")
        try:
            out.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return out
