"""What dead processes left half written goes, and nothing that anybody may still be writing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from vgen.data.leftovers import DAY_SECONDS, remove_abandoned, temporary


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_only_what_is_abandoned_is_removed(tmp_path: Path) -> None:
    here, dead = socket.gethostname(), dead_process()
    mine = temporary(tmp_path / "train-0a")
    gone = tmp_path / f"train-0b.{dead}@{here}.tmp"
    theirs, old = (tmp_path / f"train-0{name}.{dead}@elsewhere.tmp" for name in "cd")
    unsigned = tmp_path / f"train-0e.{dead}.tmp"
    for folder in (mine, gone, theirs, old, unsigned, tmp_path / "train-0a"):
        folder.mkdir()
        (folder / "latents.npy").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_text("somebody's")
    past = time.time() - 2 * DAY_SECONDS
    for path in (old / "latents.npy", old):
        os.utime(path, (past, past))
    assert sorted(remove_abandoned(tmp_path)) == sorted([gone, old])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.name, theirs.name, unsigned.name, "train-0a", "notes.tmp"}


def test_a_folder_that_is_not_there_yet_has_none(tmp_path: Path) -> None:
    assert remove_abandoned(tmp_path / "later") == []
