"""What one training step takes, found by computing it on tensors that have shapes and no values."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from vgen.backbones.attend import fused_everywhere
from vgen.backbones.image_model import ImageModel
from vgen.backbones.joints import COCO_18
from vgen.data.batch import Batch
from vgen.data.fields import FIELDS, VIDEO, Field
from vgen.diffusion.draws import Draws
from vgen.methods import Recipe
from vgen.methods._assembly import Part
from vgen.training.counting import GPU_BLOCK, Counting, as_on_gpu
from vgen.training.learner import Learner, factors
from vgen.training.optimisation import Optimisation
from vgen.training.preparing import needs_of
from vgen.training.strategies import FROZEN_DTYPE, Precision, Spread, TrainerSettings

CPU = torch.device("cpu")
RATE = 8.0
"""Frames per second of clips that nobody has seen; nothing's size hangs on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """The batch of one process: clips, frames of each and their size; whether a latent cache gives them."""

    num_clips: int
    num_frames: int
    height_px: int
    width_px: int
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Bytes on one device while a step is computed there alone, by what holds them.

    ``peak`` is the most at once; ``activations`` is what it has beyond the rest: what is kept for backward
    and what operations take while they run. Under ZeRO ``gradients``, ``moments`` and ``averages`` are 0:
    DeepSpeed holds them in parts. ``num_learning`` are parameters, ``num_sharded`` those of the nets that
    learn, whole, and ``frozen_sharded`` the bytes of what is frozen in them.
    """

    frozen: int
    frozen_sharded: int
    learning: int
    gradients: int
    moments: int
    averages: int
    batch: int
    peak: int
    flops: int
    num_learning: int
    num_sharded: int

    @property
    def activations(self) -> int:
        held = (self.frozen, self.learning, self.gradients, self.moments, self.averages, self.batch)
        return self.peak - sum(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step to be counted. ``model`` makes the image model without weights; ``on_gpu``: as a GPU
    computes it."""

    recipe: Recipe
    model: Callable[[], ImageModel]
    optimisation: Optimisation
    settings: TrainerSettings
    clips: ClipShape
    on_gpu: bool
    beneath: Sequence[Part] = ()

    def of(self, num_clips: int) -> Step:
        """The same with another batch."""
        return replace(self, clips=replace(self.clips, num_clips=num_clips))


def counts_of(step: Step) -> StepCounts:
    """The second step of a run, when moments are there; nothing of it is computed but what is small.

    Raises ValueError where the method cannot learn from such clips.
    """
    with _without_values(step) as counting, _silent():
        learner = learner_of(step, CPU)
        weights = _live(counting)
        held = staying_of(step, learner)
        held.moments = _live(counting) - weights - _bytes(held.averages) - _bytes(held.gradients())
        batch = zeros_for(step, learner)
        counting.begin()
        one_step(step, learner, held, batch)
        return _counts(learner, held, batch, counting, weights)


def _live(counting: Counting) -> int:
    gc.collect()
    return counting.live


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


@contextmanager
def _without_values(step: Step) -> Iterator[Counting]:
    """Tensors of shapes alone, counted."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if step.on_gpu:
            stack.enter_context(fused_everywhere())
            stack.enter_context(as_on_gpu())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Counting(GPU_BLOCK if step.on_gpu else 1))


@contextmanager
def _silent() -> Iterator[None]:
    """Libraries that build a net tell of it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def learner_of(step: Step, device: torch.device) -> Learner:
    """What learns, in the precision of the run."""
    settings, kept = step.settings, FROZEN_DTYPE[step.settings.precision]
    learner = Learner(
        step.recipe, step.model(), step.optimisation, 0, settings.max_steps, kept, list(step.beneath)
    )
    if settings.gradient_checkpointing:
        learner.video_model.enable_gradient_checkpointing()
    if device != CPU:  # where it is already; and torch moves no weights without values that somebody knows
        learner.to(device)
    learner.place(device)
    if settings.sharded:  # DeepSpeed casts what learns, and keeps fp32 in parts
        for parameter in learner.parts.parameters():
            parameter.data = parameter.data.to(kept)
    return learner


@dataclass(slots=True, kw_only=True)
class Staying:
    """What stays between steps: gradients, the optimiser with its moments, and averages. DeepSpeed's own is
    not computed here: there is no optimiser."""

    learning: list[nn.Parameter]
    optimiser: torch.optim.Optimizer | None = None
    averages: list[Tensor] = field(default_factory=list)
    moments: int = 0

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.learning if p.grad is not None]


def staying_of(step: Step, learner: Learner) -> Staying:
    """What there is after a first step."""
    held = Staying(learning=list(learner.learning.values()))
    if step.settings.sharded:
        for parameter in held.learning:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        return held
    rates = factors(learner.learning, step.recipe.lr_factors())
    fused = step.settings.precision is not Precision.FP16
    held.optimiser, _ = step.optimisation.build(held.learning, step.settings.max_steps, fused, rates)
    for parameter in held.learning:
        parameter.grad = torch.zeros_like(parameter)
    held.optimiser.step()
    if step.optimisation.ema_decay:
        apart = step.recipe.adversaries()
        averaged = [p for name, p in learner.learning.items() if name.partition(".")[0] not in apart]
        held.averages = [p.detach().float().clone() for p in averaged]
    return held


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def one_step(step: Step, learner: Learner, held: Staying, batch: Batch) -> None:
    """In the order in which Lightning does it: the gradients of the step before stay until the loss is
    there, and longer where batches are accumulated or DDP keeps them."""
    settings = step.settings
    stay = settings.accumulate > 1 or settings.strategy is Spread.DDP
    half = settings.precision is not Precision.FP32
    objective = learner.objective.undropped()
    objective.enter(0, settings.max_steps)
    kind = learner.video_model.device.type
    with torch.autocast(kind, dtype=FROZEN_DTYPE[settings.precision] if half else None, enabled=half):
        loss = objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]
    if held.optimiser is not None and not stay:
        held.optimiser.zero_grad()
    loss.backward()
    if held.optimiser is not None:
        if step.optimisation.grad_clip:
            nn.utils.clip_grad_norm_(held.learning, step.optimisation.grad_clip)
        held.optimiser.step()


def zeros_for(step: Step, learner: Learner) -> Batch:
    """What the loader gives: zeros of the shapes that the method reads."""
    clips, known = step.clips, needs_of(step.recipe)
    named = [name for name in known.names if name in known.required and name != "caption"]
    fields = {name: _zeros(VIDEO if name == "video" else FIELDS[name], step, learner) for name in named}
    captions = [""] * clips.num_clips
    if clips.cached:
        kept = learner.video_model.prepare({"caption": captions, **fields})
        fields = {name: value for name, value in kept.items() if name not in ("video", "caption")}
    keys = [(f"clip{i}", 0) for i in range(clips.num_clips)]
    at = np.tile(np.arange(clips.num_frames), (clips.num_clips, 1))
    batch = Batch(keys=keys, captions=captions, fields=fields, at=torch.from_numpy(at))
    batch.rates = torch.from_numpy(np.full(clips.num_clips, RATE, np.float32))
    return batch


def _zeros(one: Field, step: Step, learner: Learner) -> Tensor:
    """A field of all clips, b ..., as the loader stacks it."""
    clips, model = step.clips, learner.model
    factor = model.vae_factor if one.name == "latents" else 1
    sizes = {"f": clips.num_frames - one.between, "p": 1, "j": len(COCO_18), "n": 1}
    sizes |= {"h": clips.height_px // factor, "w": clips.width_px // factor, "c": model.latent_channels}
    shape = [sizes.get(axis) or int(axis) for axis in one.axes.split()]
    array = one.channels_first(np.zeros(shape, one.dtype))
    return torch.from_numpy(np.stack([array] * clips.num_clips))


def _counts(learner: Learner, held: Staying, batch: Batch, counting: Counting, weights: int) -> StepCounts:
    sharded = list(learner.parts.parameters())
    learning = _bytes(held.learning)
    given = [one for one in batch.fields.values() if not isinstance(one, FakeTensor)]
    return StepCounts(
        frozen=weights - learning,
        frozen_sharded=_bytes(p for p in sharded if not p.requires_grad),
        learning=learning,
        gradients=_bytes(held.gradients()),
        moments=held.moments,
        averages=_bytes(held.averages),
        batch=_bytes(batch.fields.values()),
        peak=counting.peak + _bytes(given),
        flops=counting.flops,
        num_learning=sum(p.numel() for p in held.learning),
        num_sharded=sum(p.numel() for p in sharded),
    )
