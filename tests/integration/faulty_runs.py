"""``python faulty_runs.py SHARDS``: trains on two ranks as often as it is told to, with a fault in one of
them.

Each line of its input is a run, ``{"folder": ..., "strategy": "ddp", "fault": "..."}``; for each it prints
how the ranks ended, ``codes: [-9, 75]``. Everything is imported once and every rank is forked from here, so
that a run takes seconds. The faults are real: a rank kills, stops or signals itself at one place.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from vgen.app.config import Resume, RunSettings, TrainRun
from vgen.app.loading import Backbone
from vgen.app.train import train_aloud
from vgen.backbones.blank import Blank
from vgen.data.audit import Ledger
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.formats import tensor_file
from vgen.formats.tensor_file import Shelf, Written
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods.animatediff import AnimateDiff
from vgen.training import checkpoint_folder, checkpoints, results, run
from vgen.training.corpus import Corpus
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.strategies import Accelerator, Spread, TrainerSettings

with suppress(ImportError):  # it takes long, and is asked for by some strategies alone
    import deepspeed  # noqa: F401

STEPS, NUM_RANKS = 8, 2
LIMIT_SECONDS = 150.0
"""After which a run has not ended by itself; twice what a stopped rank is given."""


def settings(shards: str, folder: Path, strategy: str) -> TrainRun:
    """Eight steps on five clips, two a step: epochs end within steps 3 and 8 and after step 5. A checkpoint
    every two steps, an evaluation every three."""
    return TrainRun(
        method=AnimateDiff(motion=MotionModuleSpec(heads=4)),
        backbone=Backbone(blank=Blank.TOYBOX),
        data=Corpus(
            path=shards, window=Window(num_frames=1), batch_size=1, val_clips=2, cache=True, audit=True
        ),
        optim=Optimisation(lr=1e-3, warmup_steps=3, ema_decay=0.9),
        trainer=TrainerSettings(
            accelerator=Accelerator.CPU,
            strategy=Spread(strategy),
            devices=NUM_RANKS,
            max_steps=STEPS,
            val_every_steps=3,
            checkpoint_every_steps=2,
            log_every_steps=1,
            num_threads=1,
            preflight=False,
            hang_seconds=20,
        ),
        run=RunSettings(name=folder.name, dir=str(folder.parent), seed=3, resume=Resume.AUTO),
    )


# -- what goes wrong, and where ------------------------------------------------------------------------------
def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")


def send(signum: int) -> Callable[..., None]:
    return lambda *_: os.kill(os.getpid(), signum)


def in_forward(step: int, act: Callable[..., Any]) -> None:
    """Before the net of the step after ``step`` steps."""
    forward = Learner.training_step

    def faulty(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        if self.trainer.global_step == step:
            act()
        return forward(self, batch, index)

    Learner.training_step = faulty  # type: ignore[method-assign]


def in_backward(step: int) -> None:
    """When the gradient of the first learning tensor is there, as one of the last."""
    forward = Learner.training_step

    def faulty(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        if self.trainer.global_step == step:
            next(iter(self.learning.values())).register_hook(die)
        return forward(self, batch, index)

    Learner.training_step = faulty  # type: ignore[method-assign]


def around_step(number: int, is_after: bool) -> None:
    """Before or after this rank's optimiser makes its step ``number``."""
    from torch.optim import optimizer

    count = [0]

    def counted(*_: Any) -> None:
        count[0] += 1
        if count[0] == number:
            die()

    register = (
        optimizer.register_optimizer_step_post_hook
        if is_after
        else optimizer.register_optimizer_step_pre_hook
    )
    register(counted)


def better(self: Learner, batch: Batch, index: int) -> None:
    """Every evaluation finds a better loss than the one before, so that each replaces the best."""
    self.log("val/loss", 1 / (1 + self.trainer.global_step), batch_size=len(batch), sync_dist=True)


def in_evaluation(step: int) -> None:
    evaluate = Learner.validation_step

    def faulty(self: Learner, batch: Batch, index: int) -> None:
        if self.trainer.global_step == step:
            die()
        evaluate(self, batch, index)

    Learner.validation_step = faulty  # type: ignore[method-assign]


def in_file(number: int, act: Callable[..., Any]) -> None:
    """When half of the ``number``-th file of tensors is written: three of step 2, two of the best of step 3,
    three of step 4."""
    write, count = tensor_file.write, [0]

    def faulty(path: Path, shelf: Shelf) -> Written:
        count[0] += 1
        written = write(path, shelf)
        if count[0] == number:
            os.truncate(path, written.num_bytes // 2)
            act()
        return written

    checkpoint_folder.write_tensors = faulty


def full() -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_shared_save(step: int) -> None:
    """While rank 0 writes, and asks the others for parts where it has to."""
    save = checkpoints.Saver.save

    def faulty(self: checkpoints.Saver, trainer: Any, *rest: Any, **more: Any) -> bool:
        if trainer.global_step == step:
            die()
        return save(self, trainer, *rest, **more)

    checkpoints.Saver.save = faulty  # type: ignore[method-assign]


def around_rename(name: str, is_after: bool) -> None:
    """Before or after what is complete gets its name."""
    replace = os.replace

    def faulty(source: Any, target: Any) -> None:
        if is_after:
            replace(source, target)
        if Path(target).name == name:
            die()
        if not is_after:
            replace(source, target)

    os.replace = faulty


def in_line(step: int) -> None:
    """When half a line of the audit ledger is written."""
    add = Ledger.add

    def faulty(self: Ledger, line: Any) -> None:
        if line.get("step") != step + 1:
            return add(self, line)
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode()[:20])
        die()

    Ledger.add = faulty  # type: ignore[method-assign]


FAULTS: dict[str, tuple[int, Callable[[], Any]]] = {
    "forward": (1, lambda: in_forward(3, die)),
    "backward": (0, lambda: in_backward(4)),
    "backward of the other rank": (1, lambda: in_backward(4)),
    "before the optimiser's step": (0, lambda: around_step(5, is_after=False)),
    "after the optimiser's step": (1, lambda: around_step(6, is_after=True)),
    "border of two epochs within a step": (0, lambda: in_forward(2, die)),
    "border of two epochs between steps": (1, lambda: in_forward(5, die)),
    "line of the ledger": (1, lambda: in_line(4)),
    "evaluation": (1, lambda: in_evaluation(6)),
    "best half written": (0, lambda: in_file(4, die)),
    "weights half written": (0, lambda: in_file(6, die)),
    "moments half written": (0, lambda: in_file(8, die)),
    "the other rank while one saves": (1, lambda: in_shared_save(4)),
    "before a checkpoint's rename": (0, lambda: around_rename("step-0000004", is_after=False)),
    "after a checkpoint's rename": (0, lambda: around_rename("step-0000004", is_after=True)),
    "before LATEST is renamed": (0, lambda: around_rename("LATEST", is_after=False)),
    "before the last checkpoint's rename": (0, lambda: around_rename("step-0000008", is_after=False)),
    "between the last checkpoint and the adapter": (0, lambda: setattr(run, "write_results", die)),
    "adapter half written": (0, lambda: setattr(results, "save_adapter", _half_an_adapter)),
    "stopped": (1, lambda: in_forward(5, send(signal.SIGSTOP))),
    "USR1": (0, lambda: in_forward(4, send(signal.SIGUSR1))),
    "TERM": (1, lambda: in_forward(5, send(signal.SIGTERM))),
    "full disk, then killed": (0, lambda: (in_file(6, full), in_forward(5, die))),
    "full disk, then room": (0, lambda: in_file(6, full)),
}
"""The rank in which a fault lies, and what brings it about."""


def _half_an_adapter(path: Path, *_: Any) -> NoReturn:
    path.with_name(f".{path.name}.tmp").write_bytes(b"half")
    die()


# -- ranks ---------------------------------------------------------------------------------------------------
def become(rank: int, shards: str, wish: dict[str, str], port: int) -> NoReturn:
    """A rank as torchrun starts it, in a process of its own; its output goes to a file beside the run."""
    folder = Path(wish["folder"])
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    Learner.validation_step = better  # type: ignore[method-assign]
    faulty, arrange = FAULTS.get(wish["fault"], (None, None))
    if rank == faulty and arrange is not None:
        arrange()
    code = 0
    try:
        train_aloud(settings(shards, folder, wish["strategy"]))
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:  # noqa: BLE001  as the command line ends
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 2 if isinstance(error, ValueError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def both(shards: str, wish: dict[str, str]) -> list[int | str]:
    """The code of each rank, negative for a signal; "alive" where it had to be killed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    pids = []
    for rank in range(NUM_RANKS):
        if (pid := os.fork()) == 0:
            become(rank, shards, wish, port)
        pids.append(pid)
    end, codes = time.monotonic() + LIMIT_SECONDS, dict[int, int | str]()
    while len(codes) < NUM_RANKS:
        for pid in (pid for pid in pids if pid not in codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = "alive"
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def main(shards: str) -> None:
    for line in sys.stdin:
        print(f"codes: {json.dumps(both(shards, json.loads(line)))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
