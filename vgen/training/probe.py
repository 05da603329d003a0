"""A few training steps on the machine at hand: their time and, on a GPU, their memory."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass

import torch

from vgen.training.foretold import Step, learner_of, one_step, staying_of, zeros_for

NUM_STEPS = 4
"""Of which the first warms up."""


@dataclass(frozen=True, slots=True)
class Probed:
    """Seconds of one batch, forward to optimiser step; the most bytes that a GPU held at once, None on a
    CPU."""

    seconds: float
    peak: int | None


def probe(step: Step, device: torch.device) -> Probed:
    """Steps of one process on a batch of zeros; what a strategy divides is whole here. ``step.model`` opens
    an image model with weights."""
    gc.collect()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    learner = learner_of(step, device)
    held, batch = staying_of(step, learner), zeros_for(step, learner)
    seconds = []
    for _ in range(NUM_STEPS):
        began = time.perf_counter()
        one_step(step, learner, held, batch)
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else None
    return Probed(statistics.median(seconds[1:]), peak)
