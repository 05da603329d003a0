"""One training run from settings to files: open the data, prove the gradients, fit, write what was learnt."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vgen.data.batch import Encoder
from vgen.data.cache import LatentCache
from vgen.data.cache_building import Builders
from vgen.data.clips import Clips
from vgen.formats.adapter import Card, put
from vgen.methods import name_of
from vgen.methods._objectives import Denoising
from vgen.methods._sampling import as_trained, position_rows, refuse_impossible
from vgen.training import ranks
from vgen.training.allocator import keep_freed_memory
from vgen.training.auditing import auditing, begin_ledger, refuse_gap
from vgen.training.captions import say_cut_captions
from vgen.training.checkpoint_folder import Checkpoint
from vgen.training.checkpoints import GoOn, KeepBest, KeepLast, Saver, refuse_misfit
from vgen.training.clock import Clock, ClockIn, ClockOut
from vgen.training.corpus import Split, split
from vgen.training.divergence import Divergence
from vgen.training.ema import Ema
from vgen.training.exits import Stopped, code_of
from vgen.training.first_clips import check_clips
from vgen.training.going_on import clear, resumable, say_resumed, say_what_is_kept
from vgen.training.heartbeats import Beating, StepBegins, StepEnds
from vgen.training.job import Job
from vgen.training.learner import Learner, refuse_mute
from vgen.training.learnt import Learnt, saved
from vgen.training.loader import cached, collate_of, loaders
from vgen.training.memory import is_out_of_memory, out_of_memory
from vgen.training.monitors import GradientNorm, Throughput, TimeUse
from vgen.training.opening import memory_of, said_of
from vgen.training.pace import Pace
from vgen.training.preflight import preflight
from vgen.training.preparing import Preparer, needs_of
from vgen.training.progress import StepBar
from vgen.training.records import loggers, recorded, run_id_of
from vgen.training.results import write_results, written_at
from vgen.training.samples import SampleClips, refuse_wordless
from vgen.training.signals import Boundary
from vgen.training.strategies import (
    FROZEN_DTYPE,
    Precision,
    TrainerSettings,
    refuse_missing_gpus,
    refuse_unfit,
    trainer,
    warn_of_slow_bf16,
)
from vgen.training.timeline import END, Timeline, TimelineRows
from vgen.training.watchdog import Watchdog

log = logging.getLogger(__name__)


def fit(job: Job) -> Path:
    """Train and return the run's folder.

    The learnt part lies there as ``adapter.safetensors``, or as ``image_model/`` where the image model itself
    learnt.
    """
    settings, clock = job.settings, Clock()
    rank = ranks.rank(settings.devices)
    with Watchdog(job.folder, rank, settings.hang_seconds, settings.phase_seconds) as watchdog:
        return _fit(job, watchdog, clock)


def _fit(job: Job, watchdog: Watchdog, clock: Clock) -> Path:
    pl.seed_everything(job.seed, verbose=False)
    settings = job.settings
    rank = _ready(job)
    found = resumable(job)
    steps_done = found.state.step if found else 0
    if found and steps_done >= settings.max_steps and written_at(job) == steps_done:
        log.info("the run is already at step %d of %d", steps_done, settings.max_steps)
        return job.folder
    refuse_gap(job, goes_on=found is not None)
    needs, subject = needs_of(job.recipe), job.recipe.subject()
    parts = split(job.corpus, job.seed, job.model.size_px, needs, subject)
    shown = check_clips(job, parts)
    global_batch = job.corpus.batch_size * settings.world_size * settings.accumulate
    num_clips = settings.max_steps * global_batch
    card = _card(job, parts, shown, num_clips)
    memory = memory_of(job, parts, steps_done) if rank == 0 else {}
    learner = _learner(job, shown)
    if rank == 0:
        log.info("%s", said_of(job, parts, learner, shown, memory))
        _tell_of_clips(job, parts)
    if job.corpus.cache:
        parts = _cached(job, parts, Beating(Preparer(learner.video_model), watchdog), rank)
    if settings.preflight and found is None and rank == 0:
        _prove(learner, parts.train, job)
    consumed = steps_done * global_batch
    train, val = loaders(
        parts,
        job.corpus,
        job.seed,
        num_draws=num_clips,
        consumed=consumed,
        rank=rank,
        world_size=settings.world_size,
    )
    run_id = run_id_of(job.folder) if rank == 0 else None  # the others do not log
    decay = job.optimisation.ema_decay
    ema = Ema(decay, job.recipe.adversaries()) if decay else None
    learnt = Learnt(ema)
    learner.record = _record(job, card, global_batch, run_id)
    if found:
        refuse_misfit(found, learner.learning, job.optimisation.kind.value, learner.record)
    figures = loggers(job.logger, job.folder, job.name, run_id, job.plain, steps_done)
    timeline = Timeline(job.folder, clock, settings.figures_every_steps)
    with recorded(figures):
        fitter = trainer(
            settings,
            job.corpus.batch_size,
            job.optimisation.grad_clip,
            [
                *([GoOn(found, ema)] if found else []),
                ClockIn(clock),
                StepEnds(watchdog),
                *_callbacks(job, learner, ema, shown, clock),
                learnt,
                Pace(clock, settings.figures_every_steps),
                TimelineRows(timeline),
                *auditing(job, rank),
                StepBegins(watchdog, job.is_busy),
                ClockOut(clock),
            ],
            figures,
            job.folder,
        )
        if found:
            say_resumed(found, consumed)
        job.begin()
        if rank == 0:
            timeline.begin(steps_done)
            _clear(job, parts, found, steps_done)
        if found and steps_done >= settings.max_steps:  # killed between its last checkpoint and its last file
            learnt.values = saved(found)
        else:
            _compile(learner, settings)
            _run(job, fitter, learner, train, val)
        if rank == 0:
            write_results(job, learner, learnt.values, card, val)
            timeline.note(END, settings.max_steps)
    return job.folder


def _clear(job: Job, parts: Split, found: Checkpoint | None, steps_done: int) -> None:
    """What lies behind the checkpoint that the run goes on from is taken away."""
    clear(job.folder / "checkpoints", found)
    begin_ledger(job, parts, steps_done)


def _card(job: Job, parts: Split, shown: dict[str, Any], num_clips: int) -> Card:
    """Of the image model as it came: what is put into it later may hold weights of its own."""
    return Card.of(
        name_of(job.recipe),
        job.recipe,
        job.model,
        job.plain,
        {"steps": job.settings.max_steps, "clips": num_clips, "held_out": parts.told} | shown,
        [one.said for one in job.beneath],
        job.init,
    )


def _record(job: Job, card: Card, global_batch: int, run_id: str | None) -> dict[str, Any]:
    """What checkpoints say of the run; the card is for an adapter of a checkpoint."""
    return {
        "run": job.plain,
        "card": asdict(replace(card, run={})),
        "seed": job.seed,
        "global_batch": global_batch,
        "wandb_run_id": run_id,
    }


def _cached(job: Job, parts: Split, encoder: Encoder, rank: int) -> Split:
    """The clips as a cache holds them; as they are where no image model makes anything of them."""
    if not job.recipe.on_image_model:
        log.info("data.cache keeps what an image model makes of clips; there is none, so nothing is cached")
        return parts
    return cached(parts, job.corpus, encoder, _builders(job.settings, rank))


def _ready(job: Job) -> int:
    """This process's rank. Raises ValueError where settings and machine do not go together."""
    settings = job.settings
    recipe = job.recipe
    refuse_unfit(settings, job.optimisation, recipe.writes().image_model, recipe.adversaries())
    _set_up_cpu(settings)
    ranks.check(settings.devices, settings.num_nodes)
    refuse_missing_gpus(settings)
    rank = ranks.rank(settings.devices)
    if rank == 0:
        warn_of_slow_bf16(settings)
    return rank


def _builders(settings: TrainerSettings, rank: int) -> Builders:
    """The processes that write a latent cache: all that a launcher started together.

    Where Lightning starts the others, rank 0 is alone until fitting begins: it writes all.
    """
    index = ranks.local_rank() % max(1, torch.cuda.device_count())
    device = torch.device("cuda", index) if settings.on_gpu() else torch.device("cpu")
    together = ranks.by_srun() or ranks.by_torchrun()
    return Builders(device=device, rank=rank, num=settings.world_size if together else 1)


def _tell_of_clips(job: Job, parts: Split) -> None:
    log.info("%s", parts.told)
    if isinstance(parts.train, Clips) and job.recipe.on_image_model:
        say_cut_captions(job.model, parts.train)


def _compile(learner: Learner, settings: TrainerSettings) -> None:
    if settings.compile and not learner.recipe.on_image_model:
        raise ValueError(
            "trainer.compile=true compiles the image model's UNet, and this method opens none; leave it out"
        )
    if settings.compile:
        learner.unet.compile()


def _run(job: Job, fitter: pl.Trainer, learner: Learner, train: Any, val: Any) -> None:
    """Lightning leaves by ``SystemExit`` where it was interrupted, with 0 for SIGTERM: what started us has to
    see that it is not done."""
    try:
        fitter.fit(learner, train, val, weights_only=True)
    except SystemExit as ended:
        say_what_is_kept(fitter, ended.by if isinstance(ended, Stopped) else "an interrupt")
        if ended.code != code_of(signal.SIGINT) and isinstance(ended, Stopped):
            raise
        if isinstance(ended, SIGTERMException):
            raise SystemExit(code_of(signal.SIGTERM)) from ended
        raise KeyboardInterrupt from ended
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        where = f"in step {fitter.global_step + 1}"
        raise ValueError(out_of_memory(job.settings, job.corpus, where)) from error


def _learner(job: Job, shown: dict[str, int]) -> Learner:
    learner = Learner(
        job.recipe,
        job.model,
        job.optimisation,
        job.seed,
        job.settings.max_steps,
        FROZEN_DTYPE[job.settings.precision],
        [one.part for one in job.beneath],
    )
    for one in job.beneath:
        learns, slot = one.part.recipe.learns(), one.part.name
        put(learner.video_model.components(), one.tensors, learns, f"stack.{slot}", slot)
    if job.start is not None:
        put(learner.video_model.components(), job.start, job.recipe.learns())
    refuse_mute(learner)
    rows, asked = position_rows(learner.unet), job.corpus.window.num_frames
    if rows is not None and asked > rows:
        raise ValueError(
            f"data.window.num_frames={asked} frames, but the motion module has {rows} position rows; set "
            f"data.window.num_frames={rows} "
            f"or method.motion.num_positions={asked}"
        )
    if draws_samples(job, learner):
        sampling = job.samples.sampling.over(as_trained(job.recipe.sampling(), shown))
        refuse_wordless(learner.video_model)
        refuse_impossible(learner.video_model, sampling, "callbacks.sampling")
    if job.settings.gradient_checkpointing:
        learner.video_model.enable_gradient_checkpointing()
    return learner


def draws_samples(job: Job, learner: Learner) -> bool:
    """Whether clips are to be drawn while training: prompts are given, and what learns denoises."""
    return bool(job.samples.prompts) and isinstance(learner.objective, Denoising)


def _set_up_cpu(settings: TrainerSettings) -> None:
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if not settings.on_gpu():
        keep_freed_memory()
        torch.set_flush_denormal(
            True
        )  # Adam's moments decay into denormals, which CPUs compute many times slower


def _prove(learner: Learner, clips: Clips | LatentCache, job: Job) -> None:
    """Where and in the precision in which the run will be, on no more clips than its batches hold."""
    began, precision = time.perf_counter(), job.settings.precision
    device = torch.device("cuda:0" if job.settings.on_gpu() else "cpu")
    learner.to(device).place(device)
    batch = collate_of(job.corpus)([clips[0, i] for i in range(min(2, job.corpus.batch_size, len(clips)))])
    count = preflight(learner, batch, None if precision is Precision.FP32 else FROZEN_DTYPE[precision])
    log.info(
        "pre-flight: all %d learning tensors get a gradient, nothing else does (%.1f s)",
        count,
        time.perf_counter() - began,
    )


def _callbacks(
    job: Job, learner: Learner, ema: Ema | None, shown: dict[str, int], clock: Clock
) -> list[pl.Callback]:
    """In this order: what is due is written before validation, validation and samples run on the averages
    that ``ema`` puts in place, the best is kept by what validation found."""
    every = job.settings.figures_every_steps
    out = [
        Divergence(every, job.settings.checkpoint_every_steps, job.settings.max_skipped_steps),
        Throughput(every),
        GradientNorm(every),
        TimeUse(),
        StepBar(job.settings.max_steps),
    ]
    if draws_samples(job, learner):
        row = as_trained(job.recipe.sampling(), shown)
        own = job.samples.sampling.over(row)
        out.append(SampleClips(job.samples, job.folder / "samples", ema, own, clock))
    folder = job.folder / "checkpoints"
    saver = Saver(ema, clock)
    last = KeepLast(folder, job.settings.checkpoint_every_steps, job.settings.keep_last, saver)
    boundary = Boundary(job.signals, job.is_lost, job.folder)
    return [last, *([ema] if ema else []), *out, KeepBest(folder, saver), boundary]
