"""Names of what is being written, and whether who was writing it still lives."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

_NAME = re.compile(r"\.(\d+)(?:@(.+))?\.tmp")
DAY_SECONDS = 86400.0


def temporary(path: Path) -> Path:
    """Where this process writes what will be ``path``, beside it."""
    return path.with_name(f"{path.name}.{os.getpid()}@{socket.gethostname()}.tmp")


def is_abandoned(path: Path) -> bool:
    """Whether ``path`` is a temporary one whose process is gone.

    Of other machines' processes nothing is known: theirs are abandoned when nothing changed for a day.
    """
    found = _NAME.search(path.name)
    if found is None or found.end() != len(path.name):
        return False
    if found[2] == socket.gethostname():
        return not _is_alive(int(found[1]))
    return time.time() - _changed(path) > DAY_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _changed(path: Path) -> float:
    inside = [*path.iterdir()] if path.is_dir() else []
    return max(each.lstat().st_mtime for each in (path, *inside))


def remove_abandoned(folder: Path) -> list[Path]:
    """Delete what dead processes left beside what they were writing in ``folder``."""
    found = [path for path in folder.glob("*.tmp") if is_abandoned(path)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return found
