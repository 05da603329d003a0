"""One owner of a run's folder at a time, on a network file system too."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType

from vgen.training.exits import at_leaving

log = logging.getLogger(__name__)

LOCK = ".lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 90.0
"""An owner on another machine that has written nothing for so long is dead."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a folder. ``machine`` tells hosts, boots and process spaces apart; ``begun`` is the process's
    start in ticks since the boot, since numbers of processes come again."""

    token: str
    machine: str
    host: str
    pid: int
    begun: str
    since: str
    beat: int = 0

    @classmethod
    def of_this_process(cls) -> Owner:
        return cls(
            token=secrets.token_hex(8),
            machine=_machine(),
            host=socket.gethostname(),
            pid=os.getpid(),
            begun=_begun(os.getpid()) or "",
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
        )

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """None where there is none. What cannot be read is an owner without a name, known by its bytes."""
        try:
            payload = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return cls(**json.loads(payload))
        except (ValueError, TypeError):
            digest = blake2b(payload, digest_size=8).hexdigest()
            return cls(digest, "", "an unknown host", 0, "", "an unknown time")

    def payload(self, beat: int) -> bytes:
        """As long at every beat, so that it is written in place."""
        told = asdict(self) | {"beat": beat}
        return json.dumps(told).ljust(512).encode()

    def is_of_this_machine(self) -> bool:
        return self.machine == _machine()

    def runs(self) -> bool:
        """Whether its process, which is one of this machine, is there, be it at work or stopped."""
        return _begun(self.pid) == self.begun


def _bytes(path: Path) -> bytes:
    """Empty where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _begun(pid: int) -> str | None:
    """When a process began; None where there is none, or one that has ended and is not yet buried."""
    if not Path("/proc/self/stat").exists():
        return "" if _answers(pid) else None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    return None if state in "ZX" else ticks


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class OfAnother:
    """The lock of a run as its other ranks see it: rank 0 holds it."""

    is_mine = made_folder = lost = False


class RunLock:
    """A context in which this process alone owns ``folder``, which is made where it is missing.

    A file with the owner's name lies in the folder and is written anew every few seconds. A second comer
    reads it and is refused with ValueError. A dead owner's lock is taken over: at once where its process was
    of this machine, else when its file has not changed for ``stale_seconds`` by the file system's own clock.
    """

    is_mine = True

    def __init__(
        self, folder: Path, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self.folder, self.path = folder, folder / LOCK
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self.owner = Owner.of_this_process()
        self.made_folder = False
        self.lost = False
        self._file = -1
        self._end = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True, name="run-lock")

    def __enter__(self) -> RunLock:
        self._make_folder()
        self._file = self._take(self.path)
        self._beats.start()
        at_leaving(self.release)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the folder up. One that this process made and left empty goes again."""
        self._end.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)
        if self.made_folder:
            with suppress(OSError):  # the run has left files in it
                self.folder.rmdir()

    def _make_folder(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.mkdir()
        except FileExistsError:
            if not self.folder.is_dir():
                raise ValueError(f"{self.folder} is a file; choose another run.name") from None
        else:
            self.made_folder = True

    # -- taking ----------------------------------------------------------------------------------------------
    def _take(self, path: Path) -> int:
        """The open file that makes this process the owner of ``path``."""
        while True:
            try:
                return self._write_new(path)
            except FileNotFoundError:  # the owner before has just removed its empty folder
                self._make_folder()
            except FileExistsError:
                owner = Owner.read(path)
                if owner is not None and (file := self._succeed(path, owner)) is not None:
                    return file

    def _write_new(self, path: Path) -> int:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.pwrite(file, self.owner.payload(0), 0)
        os.fsync(file)
        return file

    def _succeed(self, path: Path, owner: Owner) -> int | None:
        """Take the place of a dead owner; None where another has done so before. Raises ValueError where the
        owner lives.

        Of several that find it dead the one goes on that owns a second file, named by the dead owner's token:
        else a slow one would remove the lock of a quick one for the dead one's.
        """
        lives = owner.runs() if owner.is_of_this_machine() else not self._is_silent(path)
        if lives:
            raise ValueError(
                f"run {self.folder} belongs to process {owner.pid} on {owner.host} since {owner.since}; "
                "wait until it ends, stop it there, or choose another run.name"
            )
        claim = path.with_name(f"{path.name}.{owner.token}")
        os.close(self._take(claim))
        try:
            now = Owner.read(path)
            if now is None or now.token != owner.token:
                return None
            beside = path.with_name(f"{path.name}.{self.owner.token}.new")
            file = self._write_new(beside)
            os.replace(beside, path)
        finally:
            claim.unlink(missing_ok=True)
        log.warning(
            "run %s was left by process %s on %s, which is dead; it is taken over",
            self.folder,
            owner.pid,
            owner.host,
        )
        return file

    def _is_silent(self, path: Path) -> bool:
        """Waits until the file changes, or is older than a living owner lets it become."""
        before = _bytes(path)
        told = time.monotonic() + 2 * self.beat_seconds
        while self._age(path) < self.stale_seconds:
            time.sleep(self.beat_seconds / 5)
            now = _bytes(path)
            if now != before or not path.exists():
                return not now  # given up, or written anew
            if time.monotonic() > told:
                told += self.stale_seconds
                log.info("waiting for a sign of life of the owner of %s", self.folder)
        return True

    def _age(self, path: Path) -> float:
        """Seconds since the file was written, by the clock of its file system: machines' clocks differ."""
        probe = path.with_name(f"{path.name}.{self.owner.token}.now")
        probe.write_bytes(b"now")
        try:
            return probe.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    # -- keeping ---------------------------------------------------------------------------------------------
    def _is_ours(self) -> bool:
        owner = Owner.read(self.path)
        return owner is not None and owner.token == self.owner.token

    def _beat(self) -> None:
        beat = 0
        while not self._end.wait(self.beat_seconds):
            beat += 1
            with suppress(OSError):  # a full disk, a server that is away: the next beat tries again
                os.pwrite(self._file, self.owner.payload(beat), 0)
                os.fsync(self._file)
                self.lost = not self._is_ours()
