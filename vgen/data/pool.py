"""Work in processes that may crash or hang: results come back in order, and a task that takes its worker with
it is named."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, Generic, TypeVar

from vgen.data.files import is_disks_fault

Task = TypeVar("Task")
Result = TypeVar("Result")
START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended in the midst of the task."""

    exit_code: int | None


@dataclass(frozen=True, slots=True)
class Hung:
    """The worker passed the deadline and was killed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Raised:
    text: str
    disk: OSError | None


def run_ordered(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    num_processes: int,
    deadline_seconds: float,
    ahead: int = 4,
    preload: Sequence[str] = (),
) -> Generator[Result | Died | Hung, None, None]:
    """``work`` over ``tasks`` in ``num_processes`` processes; one outcome per task, in the order of the
    tasks.

    At most ``ahead`` tasks per process are begun before the oldest outcome is taken. An exception in ``work``
    is an error of ours and is raised here; what belongs to the task must be part of the result. ``preload``
    names modules that are imported once for all workers.
    """
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    # A fork server forks from a process without threads; forking this one, which may hold locks of torch or a
    # progress bar, may hang.
    context.set_forkserver_preload(list(preload))
    queue = iter(tasks)
    waiting: deque[int] = deque()  # tasks begun, oldest first
    outcomes: dict[int, Any] = {}
    workers = [_Worker(work, context) for _ in range(num_processes)]
    number, exhausted = 0, False
    try:
        while True:
            for worker in workers:
                if exhausted or worker.number is not None or len(waiting) >= ahead * num_processes:
                    continue
                try:
                    task = next(queue)
                except StopIteration:
                    exhausted = True
                    continue
                worker.give(number, task, deadline_seconds)
                waiting.append(number)
                number += 1
            while waiting and waiting[0] in outcomes:
                outcome = outcomes.pop(waiting.popleft())
                if isinstance(outcome, _Raised):
                    raise outcome.disk or RuntimeError(f"a worker failed:\n{outcome.text}")
                yield outcome
            if exhausted and not waiting:
                return
            _take(workers, outcomes, deadline_seconds)
    finally:
        for worker in workers:
            worker.stop()


def _take(workers: list[_Worker[Any, Any]], outcomes: dict[int, Any], deadline_seconds: float) -> None:
    """Wait until at least one worker answers, dies or passes its deadline."""
    busy: dict[Any, _Worker[Any, Any]] = {w.pipe: w for w in workers if w.number is not None}
    if not busy:
        return  # the oldest outcomes were just taken: there is room to begin more
    patience = min(w.due for w in busy.values()) - time.monotonic()
    for pipe in connection.wait(list(busy), max(0.0, patience)):
        busy.pop(pipe).receive(outcomes)
    for worker in busy.values():
        if time.monotonic() >= worker.due:
            worker.expire(outcomes, deadline_seconds)


class _Worker(Generic[Task, Result]):
    def __init__(self, work: Callable[[Task], Result], context: Any) -> None:
        self.work, self.context = work, context
        self.number: int | None = None
        self.due = 0.0
        self._begin()

    def _begin(self) -> None:
        self.pipe, theirs = self.context.Pipe()
        self.process = self.context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        self.process.start()
        theirs.close()
        self.started = False

    def give(self, number: int, task: Task, deadline_seconds: float) -> None:
        if not self.started:  # importing is not part of the task's time
            if not self.pipe.poll(START_SECONDS):
                raise RuntimeError(
                    f"a worker process did not start within {START_SECONDS:.0f} s; is the machine out of "
                    "memory?"
                )
            try:
                self.pipe.recv()
            except EOFError:
                self.process.join()
                raise RuntimeError(
                    f"a worker process died while starting (exit code {self.process.exitcode}); its message "
                    "is above"
                ) from None
            self.started = True
        self.number, self.due = number, time.monotonic() + deadline_seconds
        with suppress(BrokenPipeError):  # it died idle: reading says so
            self.pipe.send(task)

    def receive(self, outcomes: dict[int, Any]) -> None:
        assert self.number is not None
        try:
            outcomes[self.number] = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            outcomes[self.number] = Died(self.process.exitcode)
            self._renew()
        self.number = None

    def expire(self, outcomes: dict[int, Any], deadline_seconds: float) -> None:
        assert self.number is not None
        outcomes[self.number] = Hung(deadline_seconds)
        self._renew()
        self.number = None

    def _renew(self) -> None:
        self.stop()
        self._begin()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _serve(pipe: connection.Connection, work: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(None)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            outcome = work(task)
        except Exception as error:  # noqa: BLE001  it is raised again by the parent
            outcome = _Raised(
                traceback.format_exc(),
                error if isinstance(error, OSError) and is_disks_fault(error) else None,
            )
        pipe.send(outcome)


def _end_with_parent() -> None:
    """A killed parent leaves no orphan that still writes into its folder."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
