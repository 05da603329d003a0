"""How a training process ends before its work is done: with a code that says what is to be done next."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vgen.training import ranks

DEFECT, REFUSED = 1, 2
REQUEUE = 75
"""Start the same command again, with run.resume=auto: sysexits.h calls it a temporary failure."""
_OWN = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGINT: 128 + signal.SIGINT}
_FLAG = "VGEN_REQUEUE_FLAG"


def code_of(signum: int) -> int:
    """The exit code of a run that a signal ended: a shell's for TERM and INT, REQUEUE for the others."""
    return _OWN.get(signal.Signals(signum), REQUEUE)


class Stopped(SystemExit):
    """The end of a run that goes on when it is started again; ``by`` names what stopped it."""

    def __init__(self, code: int, by: str) -> None:
        self.by = by
        if code == REQUEUE:
            ask_for_requeue(by)
        # Lightning ends everything by SIGKILL where a process that it started ends with another code than 0.
        super().__init__(0 if ranks.is_started_by_lightning() else code)


def ask_for_requeue(by: str) -> None:
    """Write the file that a batch script looks for: srun may report the code of another rank. ``by`` names
    what ended the run; of a signal the script makes a requeue, of a fault a new start where it is."""
    if flag := os.environ.get(_FLAG):
        Path(flag).write_text(f"{by}\n")


_LAST: list[Callable[[], None]] = []


def at_leaving(act: Callable[[], None]) -> None:
    """``act`` is the last thing a process does that leaves at once: it must not wait for anything."""
    _LAST.append(act)


def leave(code: int) -> NoReturn:
    """End at once, from any thread: the main one may never come back."""
    for act in _LAST:
        with suppress(OSError):
            act()
    if code == REQUEUE:
        ask_for_requeue("fault")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
