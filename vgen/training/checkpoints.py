"""When checkpoints are written, what is in them, and how a run goes on from one."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from vgen.formats.tensor_file import Entry, Shelf
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import AVERAGES, MOMENTS, WEIGHTS, Checkpoint, State, Unsound
from vgen.training.clock import Clock, Doing
from vgen.training.ema import Ema
from vgen.training.held import Diverged, Held, Learning, Whole
from vgen.training.zero import ZeroStrategy

log = logging.getLogger(__name__)
BEST = "best"
WENT_BACK = "went_back"
"""Of a run's record: that it diverged once and took up an earlier checkpoint."""


def held_of(trainer: pl.Trainer) -> Held:
    """What the run's strategy holds."""
    if isinstance(trainer.strategy, ZeroStrategy):
        return trainer.strategy.held()
    return Whole(trainer.optimizers[0], getattr(trainer.precision_plugin, "scaler", None))


class Saver:
    """Writes what learns, whatever the strategy; every rank has to ask at the same step.

    A disk that refuses ends no training: it is said once, and the next save tries again. ``ema`` is the run's
    average, or None; ``clock`` counts the time.
    """

    def __init__(self, ema: Ema | None, clock: Clock) -> None:
        self.ema, self.clock = ema, clock
        self._refused = False

    def save(self, trainer: pl.Trainer, module: Any, folder: Path, val_loss: float | None = None) -> bool:
        """Whether ``folder`` was written; with ``val_loss`` it holds weights and averages alone, for use.

        Raises ValueError on every rank where a value is not finite, or where the run's folder is gone.
        """
        with self.clock.during(Doing.SAVE):
            return self._save(trainer, module, folder, val_loss)

    def _save(self, trainer: pl.Trainer, module: Any, folder: Path, val_loss: float | None) -> bool:
        learning = Learning(module.learning, held_of(trainer), self.ema.average if self.ema else {})
        shelves = {WEIGHTS: learning.weights()}
        if self.ema is not None:
            shelves[AVERAGES] = learning.averaged()
        if val_loss is None:
            shelves[MOMENTS] = learning.moments()
        try:
            why = self._write(trainer, folder, shelves, self._state(trainer, module, learning, val_loss))
        except Diverged as error:
            raise ValueError(diverged(f"{error} at step {trainer.global_step}")) from error
        why = trainer.strategy.broadcast(why)
        if isinstance(why, FileNotFoundError):
            raise ValueError(
                f"the run's folder {folder.parent.parent} was deleted or moved while it trained; put it back "
                "and go on with run.resume=auto, or start a new run.name"
            )
        if trainer.is_global_zero:
            self._tell(folder, why)
        return why is None

    @staticmethod
    def _write(trainer: pl.Trainer, folder: Path, shelves: dict[str, Shelf], state: State) -> OSError | None:
        """On rank 0 to the disk, on the others to nowhere; what the disk said where it refused."""
        asked: set[str] = set()
        shelves = {file: _marked(file, shelf, asked) for file, shelf in shelves.items()}
        why = None
        if trainer.is_global_zero:
            try:
                _flush_figures(trainer)
                folder.parent.mkdir(exist_ok=True)
                room.write(folder, shelves, state)
                if state.val_loss is None:
                    room.point_to(folder)
            except OSError as error:
                why = error
        for file, shelf in shelves.items():  # the rest, since the other ranks ask for it
            for name, entry in shelf.items():
                if f"{file} {name}" not in asked:
                    entry.fetch()
        return why

    def _tell(self, folder: Path, why: OSError | None) -> None:
        if why is not None and not self._refused:
            log.warning(
                "CHECKPOINT NOT WRITTEN: %s (%s). Training goes on and tries again at the next checkpoint; "
                "the last one that was written stays. Free some space, or what was learnt since is lost when "
                "the run ends",
                folder,
                why.strerror,
            )
        if why is None and self._refused:
            log.warning("checkpoints are written again: %s", folder)
        self._refused = why is not None

    def _state(self, trainer: pl.Trainer, module: Any, learning: Learning, val_loss: float | None) -> State:
        [config] = trainer.lr_scheduler_configs
        schedule = config.scheduler.state_dict()
        step = trainer.global_step
        return State(
            step=step,
            samples=step * module.record["global_batch"],
            record=module.record,
            optimizer=learning.kind,
            optimizer_steps=learning.steps(),
            scheduler={name: schedule[name] for name in ("last_epoch", "base_lrs", "_last_lr")},
            ema_updates=self.ema.num_updates if self.ema else None,
            scaler=learning.held.scale(),
            val_loss=val_loss,
        )


def _marked(file: str, shelf: Shelf, asked: set[str]) -> Shelf:
    """The same entries; ``asked`` gets the names of those that were fetched."""

    def marked(name: str, entry: Entry) -> Entry:
        def fetch() -> Tensor:
            asked.add(f"{file} {name}")
            return entry.fetch()

        return Entry(entry.dtype, entry.shape, fetch)

    return {name: marked(name, entry) for name, entry in shelf.items()}


def _flush_figures(trainer: pl.Trainer) -> None:
    """A curve on the disk reaches as far as the checkpoint beside it."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger.save()


class KeepLast(pl.Callback):
    """A checkpoint every ``every_steps`` and one at the end of training; the last ``num_kept`` stay.

    What is due is written when the figures of its step are logged, so that both reach equally far; before
    validation, which may be long. It stands before the average among callbacks, which validation swaps in.
    """

    def __init__(self, folder: Path, every_steps: int, num_kept: int, saver: Saver) -> None:
        self.folder, self.every_steps, self.num_kept, self.saver = folder, every_steps, num_kept, saver
        self._done = self._tried = -1
        self._due = False

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        step = trainer.global_step
        self._due = step % self.every_steps == 0 and step != self._tried  # several batches make a step

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if self._due:
            self.save(trainer, module)

    def on_validation_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self._due:
            self.save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.save(trainer, module)

    def pass_over(self, step: int) -> None:
        """Write none of this step."""
        self._done = step

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        """Write a checkpoint of this step, unless it was written; every rank has to ask."""
        step, self._due = trainer.global_step, False
        self._tried = step
        if step == self._done:
            return
        if self.saver.save(trainer, module, self.folder / f"step-{step:07d}"):
            self._done = step
            if trainer.is_global_zero:
                remove_former(self.folder, step, self.num_kept)


def remove_former(folder: Path, step: int, num_kept: int) -> list[Path]:
    """Delete all but the last ``num_kept`` checkpoints up to ``step``."""
    former = [path for path in room.steps(folder) if room.step_of(path) <= step][num_kept:]
    for path in former:
        shutil.rmtree(path, ignore_errors=True)
    return former


class KeepBest(pl.Callback):
    """``best``, with the weights and averages of the lowest held-out loss. It is no checkpoint to go on
    from, and what befalls it stops no run."""

    def __init__(self, folder: Path, saver: Saver) -> None:
        self.folder, self.saver, self.lowest = folder / BEST, saver, math.inf

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        """What a resumed run has to beat is in ``best``."""
        lowest = _loss_of(self.folder) if trainer.is_global_zero else math.inf
        self.lowest = trainer.strategy.broadcast(lowest)

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        loss = float(trainer.callback_metrics.get("val/loss", math.inf))
        if loss < self.lowest and self.saver.save(trainer, module, self.folder, val_loss=loss):
            self.lowest = loss


def _loss_of(folder: Path) -> float:
    if not folder.exists():
        return math.inf
    try:
        loss = room.opened(folder).state.val_loss
    except Unsound as why:
        log.warning("%s; the next validation writes another best", why)
        return math.inf
    return math.inf if loss is None else loss


def put_learnt(trainer: pl.Trainer, module: Any, found: Checkpoint, ema: Ema | None) -> None:
    """Takes over weights, moments and averages of ``found``; every rank reads it."""
    learning = Learning(module.learning, held_of(trainer), {})
    with found.reading(WEIGHTS) as weights, found.reading(MOMENTS) as moments:
        learning.put(weights, moments, found.state.optimizer_steps)
    if ema is not None and AVERAGES in found.names:
        with found.reading(AVERAGES) as averages:
            ema.load(learning.own_parts(averages), found.state.ema_updates or 0)


class GoOn(pl.Callback):
    """Puts a run where ``found`` left it, before its first step; ``ema`` is its average, or None."""

    def __init__(self, found: Checkpoint, ema: Ema | None) -> None:
        self.found, self.ema = found, ema

    def on_fit_start(self, trainer: pl.Trainer, module: Any) -> None:
        found, state = self.found, self.found.state
        _refuse_disagreement(trainer, found.folder.name)
        put_learnt(trainer, module, found, self.ema)
        if state.scaler is not None:
            held_of(trainer).put_scale(state.scaler)
        if WENT_BACK in state.record:
            module.record[WENT_BACK] = state.record[WENT_BACK]
        _put_schedule(trainer, state)
        loops = trainer.fit_loop.state_dict()
        rewind(loops, state.step, state.step * trainer.accumulate_grad_batches)
        trainer.fit_loop.load_state_dict(loops)


def _refuse_disagreement(trainer: pl.Trainer, mine: str) -> None:
    first = trainer.strategy.broadcast(mine)
    if mine != first:
        raise ValueError(
            f"process {trainer.global_rank} found {mine} to go on from and process 0 found {first}; all "
            "processes need the same run folder: put run.dir on a file system that they share"
        )


def _put_schedule(trainer: pl.Trainer, state: State) -> None:
    [config] = trainer.lr_scheduler_configs
    schedule = config.scheduler
    made = {"_step_count": state.scheduler["last_epoch"] + 1}
    schedule.load_state_dict(schedule.state_dict() | state.scheduler | made)
    for group, rate in zip(schedule.optimizer.param_groups, state.scheduler["_last_lr"], strict=True):
        group["lr"] = rate


def refuse_misfit(
    found: Checkpoint, learning: Mapping[str, Tensor], kind: str, record: Mapping[str, Any]
) -> None:
    """Raise ValueError where ``found`` is of another method, optimiser or order of clips than this run."""
    want, have = set(learning), set(found.names[WEIGHTS])
    if want != have:
        raise ValueError(
            f"checkpoint {found.folder} does not fit the run: {len(want - have)} learning parameters are "
            f"missing from it (first: {sorted(want - have)[:3]}), {len(have - want)} are unknown (first: "
            f"{sorted(have - want)[:3]}); resume with the method it was written by, or start a new run.name"
        )
    with found.reading(WEIGHTS) as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in want}
    if wrong := [name for name, value in learning.items() if shapes[name] != tuple(value.shape)]:
        raise ValueError(
            f"checkpoint {found.folder} does not fit the run: {wrong[0]} is {shapes[wrong[0]]} in it and "
            f"{tuple(learning[wrong[0]].shape)} here; resume with the knobs it was written with"
        )
    if MOMENTS not in found.names:
        raise ValueError(
            f"checkpoint {found.folder} holds weights for use and no optimiser's state; "
            "go on from one that training wrote, or start a new run with run.init_from"
        )
    if found.state.optimizer != kind:
        raise ValueError(
            f"checkpoint {found.folder} was written with optim.kind={found.state.optimizer}, this run has "
            f"{kind}; resume with the same, or start a new run.name"
        )
    for name in ("seed", "global_batch"):
        before, now = found.state.record.get(name), record.get(name)
        if before != now and None not in (before, now):
            raise ValueError(
                f"the run was begun with {name} {before}, now it is {now}, and its clips would come in "
                "another order; resume with the "
                "same run.seed and data.batch_size x processes x trainer.accumulate, or start a new "
                "run.name"
            )


def diverged(what: str) -> str:
    return (
        f"training diverged: {what}; nothing of it was written: resume from the last checkpoint or start "
        "again with a lower optim.lr or with optim.grad_clip"
    )


def refuse_diverged(learnt: Mapping[str, Tensor], when: str) -> None:
    """Raise ValueError where a learnt tensor is not finite, before it is written anywhere."""
    broken = [name for name, value in learnt.items() if not torch.isfinite(value).all()]
    if broken:
        count = f"{len(broken)} of {len(learnt)} learning tensors are not finite {when}"
        raise ValueError(diverged(f"{count} (first: {broken[0]})"))


def rewind(loops: dict[str, Any], step: int, num_batches: int) -> None:
    """Set the counters of Lightning's fit loop to the end of batch ``num_batches`` in one long epoch, as
    they stand within a run that made ``step`` steps.

    A loader that stands at the right sample is left too early or read twice by a loop that believes to stand
    elsewhere.
    """
    batches = loops["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        batches[part] |= {
            "ready": num_batches,
            "started": num_batches,
            "processed": num_batches,
            "completed": num_batches - 1,
        }
        loops["epoch_progress"][part] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        made = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"][part]
        made |= {"ready": step, "completed": step}
    batches["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1


def latest(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint, if any; says which were passed over, and why."""
    found, passed_over = room.newest(folder)
    for why in passed_over:
        log.warning("passed over: %s%s", why, f"; taken: {found.folder.name}" if found else "")
    return found
