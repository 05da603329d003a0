"""``vgen`` with faults in it, for tests on a cluster: it kills, stops or damages at a place, a rank and a
step that the environment names.

``VGEN_FAULTS`` is a JSON list of :class:`Fault`. Each comes to pass once in the life of a run: a file says
when it did. ``VGEN_TRACE`` is a folder; every rank adds a line there for each step that it begins.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgen.app import cli  # before torch is loaded

RANK = int(os.environ.get("SLURM_PROCID", 0))
TRACE = Path(os.environ["VGEN_TRACE"])


@dataclass(frozen=True)
class Fault:
    """``act`` at ``where`` on ``rank``, in the step after ``step`` steps, or while the checkpoint of ``step``
    is saved."""

    where: str
    rank: int
    step: int
    act: str
    number: int = 0

    @property
    def done(self) -> Path:
        return TRACE / f"fault-{self.number}"

    def comes(self, where: str, step: int) -> bool:
        return (where, RANK, step) == (self.where, self.rank, self.step) and not self.done.exists()


FAULTS = [Fault(number=i, **said) for i, said in enumerate(json.loads(os.environ.get("VGEN_FAULTS", "[]")))]


def die(signum: int) -> Callable[[Path], None]:
    return lambda checkpoints: os.kill(os.getpid(), signum)


def damaged(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Change the newest checkpoint's weights, then die."""

    def act(checkpoints: Path) -> None:
        change(sorted(checkpoints.glob("step-???????"))[-1] / "weights.safetensors")
        os.kill(os.getpid(), signal.SIGKILL)

    return act


def flip(file: Path) -> None:
    payload = bytearray(file.read_bytes())
    payload[-len(payload) // 3] ^= 1
    file.write_bytes(payload)


def tear(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def refuse(checkpoints: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(checkpoints))


ACTS: dict[str, Callable[[Path], None]] = {
    "kill": die(signal.SIGKILL),
    "crash": die(signal.SIGSEGV),
    "stop": die(signal.SIGSTOP),
    "flip": damaged(flip),
    "tear": damaged(tear),
    "full disk": refuse,
    "crawl": lambda checkpoints: None,
}
CRAWL_SECONDS = 10.0


def strike(where: str, step: int, checkpoints: Path) -> None:
    for fault in FAULTS:
        if fault.comes(where, step):
            fault.done.write_text(f"{time.time()} {os.environ.get('SLURM_JOB_ID')}")
            ACTS[fault.act](checkpoints)


def crawl() -> None:
    """Every step of a job that was told to crawl is slow."""
    told = [fault.done.read_text() for fault in FAULTS if fault.act == "crawl" and fault.done.exists()]
    if any(text.split()[1] == os.environ["SLURM_JOB_ID"] for text in told):
        time.sleep(CRAWL_SECONDS)


def folder_of(learner: Any) -> Path:
    return Path(learner.trainer.default_root_dir) / "checkpoints"


def arrange_steps() -> None:
    """Put the places of faults into training's steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from vgen.training.learner import Learner

    at: list[tuple[int, Path]] = [(0, Path())]
    hooks: list[Any] = []
    step, validate, optimizers = Learner.training_step, Learner.validation_step, Learner.configure_optimizers

    def training_step(self: Learner, batch: Any, index: int) -> Any:
        now, folder = self.trainer.global_step, folder_of(self)
        at[0] = (now, folder)
        note(now, batch.keys)
        crawl()
        strike("forward", now, folder)
        loss = step(self, batch, index)
        while hooks:
            hooks.pop().remove()
        middle = list(self.learning.values())[len(self.learning) // 2]
        hooks.append(middle.register_hook(lambda _: strike("backward", now, folder)))
        return loss

    def validation_step(self: Learner, batch: Any, index: int) -> None:
        strike("validation", self.trainer.global_step, folder_of(self))
        validate(self, batch, index)

    def configure_optimizers(self: Learner) -> Any:
        strike("opening", 0, folder_of(self))
        return optimizers(self)

    Learner.training_step, Learner.validation_step = training_step, validation_step
    Learner.configure_optimizers = configure_optimizers
    register_optimizer_step_post_hook(lambda *_: strike("step", *at[0]))


def note(step: int, keys: Any) -> None:
    """A line of this rank's for a step that begins."""
    line = {"time": time.time(), "step": step, "keys": [list(key) for key in keys]}
    with (TRACE / f"rank-{RANK}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def arrange_files() -> None:
    """Put the places of faults into what is written."""
    from vgen.training import checkpoint_folder as room
    from vgen.training import run
    from vgen.training.checkpoints import Saver

    fill, point_to, write, results = room._fill, room.point_to, Saver._write, run.write_results

    def half_filled(folder: Path, shelves: Any, state: Any) -> None:
        if any(fault.comes("save", state.step) for fault in FAULTS):
            name, shelf = next(iter(shelves.items()))
            room.write_tensors(folder / name, shelf)
            strike("save", state.step, folder.parent)
        fill(folder, shelves, state)

    def pointed(folder: Path) -> None:
        strike("renamed", room.step_of(folder), folder.parent)
        point_to(folder)

    def written(trainer: Any, folder: Path, shelves: Any, state: Any) -> Any:
        if RANK > 0:
            strike("save", state.step, folder.parent)
        return write(trainer, folder, shelves, state)

    def wrote(job: Any, *more: Any) -> None:
        strike("result", 0, job.folder / "checkpoints")
        results(job, *more)

    room._fill, room.point_to, Saver._write = half_filled, pointed, staticmethod(written)
    run.write_results = wrote


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        arrange_steps()
        arrange_files()
    sys.exit(cli.main())
