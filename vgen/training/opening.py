"""What a training says of itself before its first step."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from vgen.backbones.without_weights import without_weights
from vgen.methods import name_of
from vgen.training.corpus import Corpus, Split
from vgen.training.footprint import footprint
from vgen.training.foretold import ClipShape, Step, counts_of
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.strategies import TrainerSettings

BYTES, COLUMN = 4, 12
"""Learnt values are kept in fp32; headings are so wide."""
WORTH_STEPS = 500
"""A run of fewer steps finds out by itself what memory it takes, as soon as it could be foretold."""


def said_of(job: Job, parts: Split, learner: Learner, shown: dict[str, int], memory: dict[str, str]) -> str:
    """What is about to be trained, on what, where, and what it will take."""
    learning = list(learner.learning.values())
    num_learning = sum(parameter.numel() for parameter in learning)
    whole = learner.video_model.components().values()
    rows = {
        "training": f"{name_of(job.recipe)} on {job.model.source}, in {job.folder}",
        "clips": told_clips(parts, shown),
        "steps": told_steps(job.settings, job.corpus, parts.num_train),
        "parameters": told_parameters(learning, whole),
        "device": told_device(job.settings),
        **memory,
        "disk": told_disk(job.settings, job.optimisation, num_learning, job.folder),
    }
    return opening(rows)


def memory_of(job: Job, parts: Split, steps_done: int) -> dict[str, str]:
    """Of a run that is long enough for some seconds of foretelling; before layers are put into the model."""
    video = parts.train[0, 0].video
    if job.settings.max_steps - steps_done < WORTH_STEPS or video is None or not job.recipe.on_image_model:
        return {}
    corpus, (num_frames, _, height, width) = job.corpus, video.shape
    clips = ClipShape(
        num_clips=corpus.batch_size,
        num_frames=num_frames,
        height_px=height,
        width_px=width,
        cached=corpus.cache,
    )
    step = Step(
        recipe=job.recipe,
        model=lambda: without_weights(job.model),
        optimisation=job.optimisation,
        settings=job.settings,
        clips=clips,
        on_gpu=job.settings.on_gpu(),
        beneath=[one.part for one in job.beneath],
    )
    return {"memory": told_memory(step)}


def opening(rows: Mapping[str, str]) -> str:
    """A heading and a sentence a line."""
    return "\n".join(f"{name:<{COLUMN}}{text}" for name, text in rows.items())


def told_clips(parts: Split, shown: Mapping[str, int]) -> str:
    clips = f"{parts.num_train:,} to learn from, {len(parts.val):,} held out"
    if not shown:
        return clips
    num = shown["num_frames"]
    return f"{clips}; {num} frame{'s' * (num != 1)} of {shown['width_px']} x {shown['height_px']} px"


def told_steps(settings: TrainerSettings, corpus: Corpus, num_clips: int) -> str:
    """Optimiser steps, how many see every clip once, and how often that is."""
    each = corpus.batch_size * settings.world_size * settings.accumulate
    epoch = max(1, round(num_clips / each))
    epochs = settings.max_steps * each / num_clips
    return (
        f"{settings.max_steps:,} of {each} clip{'s' * (each != 1)}, {epoch:,} an epoch: "
        f"{epochs:,.1f} epochs; the time they take is said after the third"
    )


def told_parameters(learning: Iterable[nn.Parameter], parts: Iterable[nn.Module]) -> str:
    learnt = sum(parameter.numel() for parameter in learning)
    whole = sum(parameter.numel() for part in parts for parameter in part.parameters())
    return f"{_millions(learnt)} learn, {_millions(whole - learnt)} are frozen"


def told_device(settings: TrainerSettings) -> str:
    num = torch.get_num_threads()
    name = torch.cuda.get_device_name() if settings.on_gpu() else f"CPU, {num} thread{'s' * (num != 1)}"
    many = f"{settings.world_size} x " if settings.world_size > 1 else ""
    return f"{many}{name}; {settings.precision.value}"


def told_memory(step: Step) -> str:
    """The peak of every process, foretold. What is wrong with foretelling stops no training."""
    settings = step.settings
    try:
        peak = footprint(counts_of(step), settings, settings.world_size).peak
    except Exception as error:  # noqa: BLE001  shapes alone do not carry every method through
        return f"not foretold ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    if not step.on_gpu:
        return f"about {_size(peak)} at the peak, foretold from shapes, beside torch itself"
    has = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    care = "; that does not fit" if peak > has else ""
    return (
        f"about {_size(peak)} at the peak on each GPU, foretold from shapes; this one has {_size(has)}{care}"
    )


def told_disk(settings: TrainerSettings, optimisation: Optimisation, num_learning: int, folder: Path) -> str:
    """What checkpoints will take at most, and what is free where they go."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    most, free = checkpoint_bytes(settings, optimisation, num_learning), shutil.disk_usage(there).free
    care = "; that does not fit" if most > free else ""
    return f"at most {_size(most)} of checkpoints in {folder}, where {_size(free)} are free{care}"


def checkpoint_bytes(settings: TrainerSettings, optimisation: Optimisation, num_learning: int) -> int:
    """Of all that stand at the same time: the newest ``keep_last`` and one that is being written, the best,
    and the adapter. A checkpoint holds weights, averages and the optimiser's moments."""
    averages = int(optimisation.ema_decay > 0)
    moments = 2 if optimisation.kind is Optimiser.ADAMW else 1
    whole, best, adapter = 1 + averages + moments, 1 + averages, 1
    return BYTES * num_learning * ((settings.keep_last + 1) * whole + best + adapter)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M parameters" if count >= 1e5 else f"{count:,} parameters"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{max(1, round(num_bytes / 1e6)):,} MB"
