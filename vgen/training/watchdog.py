"""No hang without an end: a step that takes far too long ends the run, with the stacks of all ranks in its
folder."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np

from vgen.training import ranks
from vgen.training.exits import REQUEUE, leave

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
GRACE_SECONDS = 3.0
"""For other ranks to write their stacks, and again for those that were stopped and are waked."""
SLACK = 3.0
"""A step may take so many times as long as the longest of a hundred."""
_ENDING, _FAULT = ".ending", ".fault"
"""In the run's folder: that all ranks end now, and the exit code of a rank that ends by its own fault."""


class Reason(Enum):
    """Why another rank is gone."""

    ALL_END = "all ranks end"
    FAULT = "a fault of its own"
    UNKNOWN = "nobody knows"


@dataclass(frozen=True, slots=True)
class Peer:
    """A rank's process."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Peer:
        return cls(socket.gethostname(), os.getpid())

    def send(self, signum: int) -> None:
        """To a process of this machine."""
        if self.host == socket.gethostname():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)


class Watchdog:
    """A context with a thread that looks at what this rank is doing and since when.

    A training step may take ``step_seconds``, or three times the 99th percentile of those before it where
    that is more; every other phase ``phase_seconds``. Time in which the process was stopped does not count.
    The first rank whose time is up says so; all ranks then write their stacks, and end. Ranks that do not
    answer are waked, and killed where they are on this machine.
    """

    def __init__(self, folder: Path, rank: int, step_seconds: float, phase_seconds: float) -> None:
        self.folder, self.rank = folder, rank
        self.step_seconds, self.phase_seconds = step_seconds, phase_seconds
        self.peers = [Peer.here()]
        self.children: list[subprocess.Popen[bytes]] = []  # ranks that this process has started
        self.ending = False
        self._has_spoken = False
        self._phase, self._is_step, self._since = "setting up", False, time.monotonic()
        self._seconds: deque[float] = deque(maxlen=1000)
        self._stacks = folder / "stacks"
        self._earlier: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        self._since = time.monotonic()
        if self.rank == 0:
            for name in (_ENDING, _FAULT):  # of an earlier part of the run
                (self.folder / name).unlink(missing_ok=True)
        self._earlier = self._told_at()  # rank 0 may be long in coming and removing it
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    # -- what this rank does ---------------------------------------------------------------------------------
    def enter(self, phase: str, *, is_step: bool = False) -> None:
        """From now on this rank does ``phase``, as in "evaluating"; its time begins anew."""
        self._phase, self._is_step, self._since = phase, is_step, time.monotonic()

    def name(self, phase: str) -> None:
        """Another name for what goes on: no time is won by it."""
        self._phase = phase

    def count_step(self, seconds: float) -> None:
        """A usual step has ended, which took so long."""
        self._seconds.append(seconds)

    @property
    def limit(self) -> float:
        """Seconds that the present phase may take."""
        if not self._is_step:
            return self.phase_seconds
        usual = float(np.percentile(self._seconds, 99)) if self._seconds else 0.0
        return max(self.step_seconds, SLACK * usual)

    # -- looking ---------------------------------------------------------------------------------------------
    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(POLL_SECONDS):
            now = time.monotonic()
            if now - before > 10 * POLL_SECONDS:
                self._since += now - before
            before = now
            if self._all_end():
                self.follow()
            if now - self._since > self.limit:
                self._end_for_all()
            self._look_after_children()

    def _told_at(self) -> int | None:
        """When all ranks were told to end, in ns by the file system's clock."""
        with suppress(FileNotFoundError):
            return (self.folder / _ENDING).stat().st_mtime_ns
        return None

    def _all_end(self) -> bool:
        """Whether all ranks were told to since this one began."""
        told_at = self._told_at()
        return told_at is not None and told_at != self._earlier

    def _look_after_children(self) -> None:
        """Lightning looks every five seconds and kills this process where one has failed, without a word."""
        for child in self.children:
            code = child.poll()
            if not code:
                continue
            if (self.folder / _FAULT).exists():
                self.leave_by_fault()
            self.say(
                f"a rank of this run, process {child.pid}, ended with code {code}; run.resume=auto goes on "
                "from the last checkpoint"
            )
            self.go()

    def _end_for_all(self) -> NoReturn:
        seconds, limit = time.monotonic() - self._since, self.limit
        key = "hang_seconds" if self._is_step else "phase_seconds"
        if not self.announce():
            self.follow()
        self._write_stacks()
        silent = self._silent()
        log.error(
            "the run hangs: rank %d was %s for %.0f s, at most %.0f are allowed (trainer.%s); stacks are in "
            "%s%s; run.resume=auto goes on from the last checkpoint",
            self.rank,
            self._phase,
            seconds,
            limit,
            key,
            self._stacks,
            f" (rank {', '.join(map(str, silent))} did not answer)" if silent else "",
        )
        for rank in silent:
            self.peers[rank].send(signal.SIGKILL)
        self.go()

    def announce(self) -> bool:
        """Tell all ranks to end; False where another has told them before."""
        self.ending = True
        place = time.strftime("stacks/%Y%m%d-%H%M%S")
        try:
            with (self.folder / _ENDING).open("x") as file:
                file.write(place)
        except FileExistsError:
            return False
        except OSError as error:  # it ends nevertheless, and says why
            log.warning("%s can't be written to (%s)", self.folder, error.strerror)
        self._stacks = self.folder / place
        return True

    def say(self, why: str) -> None:
        """End all ranks for a reason that this one alone knows, if none has done so before."""
        self._has_spoken = self.announce()
        if self._has_spoken:
            log.error("%s", why)

    def follow(self) -> NoReturn:
        """End because a rank has said so. Where that is another one, it is given time to speak: a launcher
        may end all with the first that ends."""
        self.ending = True
        time.sleep(POLL_SECONDS / 5)  # the file is there a moment before what stands in it
        self._stacks = self.folder / (self.folder / _ENDING).read_text()
        self._write_stacks()
        if self.rank > 0 and not self._has_spoken and not ranks.is_started_by_lightning():
            time.sleep(4 * GRACE_SECONDS)
        self.go()

    def go(self) -> NoReturn:
        """Without data workers, which outlive what started them while they are stopped."""
        for worker in multiprocessing.active_children():
            worker.kill()
        leave(0 if ranks.is_started_by_lightning() else REQUEUE)

    def tell_fault(self, code: int) -> None:
        """The exit code for those who lose this rank: what ends it would end it again."""
        with suppress(OSError):
            (self.folder / _FAULT).write_text(str(code))

    def reason(self, seconds: float) -> Reason:
        """What another rank tells within ``seconds`` of its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._all_end():
                return Reason.ALL_END
            if (self.folder / _FAULT).exists():
                return Reason.FAULT
            time.sleep(POLL_SECONDS / 5)
        return Reason.UNKNOWN

    def leave_by_fault(self) -> NoReturn:
        """With the code of the rank that is at fault, which has said why."""
        leave(0 if ranks.is_started_by_lightning() else int((self.folder / _FAULT).read_text() or 1))

    # -- stacks ----------------------------------------------------------------------------------------------
    def _write_stacks(self) -> None:
        path, peer = self._stacks_of(self.rank), Peer.here()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".tmp").open("w") as file:
                file.write(f"rank {self.rank}, process {peer.pid} on {peer.host}: {self._phase}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
            os.replace(path.with_suffix(".tmp"), path)

    def _stacks_of(self, rank: int) -> Path:
        return self._stacks / f"rank-{rank}.txt"

    def _silent(self) -> list[int]:
        """Ranks that write no stacks, though they were waked."""
        silent: list[int] = []
        for wakes in (True, False):
            end = time.monotonic() + GRACE_SECONDS
            while (silent := self._lacking()) and time.monotonic() < end:
                time.sleep(POLL_SECONDS / 5)
            for rank in silent if wakes else []:
                self.peers[rank].send(signal.SIGCONT)
        return silent

    def _lacking(self) -> list[int]:
        return [rank for rank in range(len(self.peers)) if not self._stacks_of(rank).exists()]
