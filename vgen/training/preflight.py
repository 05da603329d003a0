"""Proof before the first step: everything that is meant to learn gets a finite, non-zero gradient, and
nothing else gets any.

Layers born silent pass no gradient upstream at step 0, so the look is at perturbed zero outputs. They are put
back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vgen.backbones.silent import Silent
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods import name_of
from vgen.spec import Choice
from vgen.training.learner import Learner

FP16_SCALE = 1024  # as a gradient scaler does: small gradients would be zeros in half precision


class Flaw(Choice):
    """What may be wrong with a parameter after a backward pass."""

    NONE = "learn and get no gradient"
    ZERO = "learn and get a gradient of zero"
    NOT_FINITE = "learn and get a gradient that is not finite"
    FROZEN = "are frozen and get a gradient"


def preflight(learner: Learner, batch: Batch, half: torch.dtype | None = None) -> int:
    """Run one forward and backward of the objective on ``batch`` where the learner's parts lie; returns the
    number of tensors that learn.

    ``half`` is the precision of autocast, if there is any. Raises ValueError naming parameters without
    gradient, with a gradient that is not finite, or with one they should not have.
    """
    objective = learner.objective.undropped()
    device = next(learner.parts.parameters()).device
    autocast = torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None)
    try:
        with _perturbed(learner), torch.random.fork_rng([device] if device.type == "cuda" else []):
            learner.zero_grad(set_to_none=True)
            with autocast:
                loss = objective.loss(learner.video_model, batch, Draws(learner.seed, batch.keys))["loss"]
            (loss * (FP16_SCALE if half is torch.float16 else 1)).backward()
            report = _report(learner)
    finally:
        learner.zero_grad(set_to_none=True)
    if report:
        raise ValueError(f"pre-flight: {'; '.join(_said(report, learner))}; {_cause(report, learner, batch)}")
    return len(learner.learning)


def _report(learner: Learner) -> dict[Flaw, list[str]]:
    """Names of parameters, by what is wrong with them."""
    out: dict[Flaw, list[str]] = {}
    everything = dict(learner.parts.named_parameters())
    for name, module in learner.video_model.components().items():
        if name not in learner.parts:
            everything |= {f"(frozen) {name}.{n}": p for n, p in module.named_parameters()}
    for name, parameter in everything.items():
        if flaw := _flaw(parameter, learns=name in learner.learning):
            out.setdefault(flaw, []).append(name)
    return out


def _flaw(parameter: nn.Parameter, learns: bool) -> Flaw | None:
    grad = parameter.grad
    if not learns:
        return None if grad is None else Flaw.FROZEN
    if grad is None:
        return Flaw.NONE
    if not torch.isfinite(grad).all():
        return Flaw.NOT_FINITE
    return None if grad.any() else Flaw.ZERO


def _said(report: dict[Flaw, list[str]], learner: Learner) -> list[str]:
    """How many parameters have each flaw, and which is the first."""
    learning = len(learner.learning)
    out = []
    for flaw, names in report.items():
        of = "" if flaw is Flaw.FROZEN else f" of {learning}"
        first = names[0] if len(names) == 1 else f"the first is {names[0]}"
        out.append(f"{len(names)}{of} tensors {flaw.value} ({first})")
    return out


def _cause(report: dict[Flaw, list[str]], learner: Learner, batch: Batch) -> str:
    """What is to be changed where the batch shows it; else what it usually is."""
    if report.keys().isdisjoint((Flaw.NONE, Flaw.ZERO)):
        return f"method={name_of(learner.recipe)} says that {', '.join(learner.recipe.learns())} learn"
    seen = batch.latents if batch.video is None else batch.video
    if Flaw.ZERO in report and seen is not None and learner.recipe.on_image_model:
        model = learner.video_model.model
        cell_px = model.vae_factor * 2 ** (len(model.unet.config["block_out_channels"]) - 1)
        side_px = seen.shape[-1] * (model.vae_factor if batch.video is None else 1)
        if side_px <= cell_px:
            return (
                f"at {side_px} px the UNet's middle has one cell, where attention has nothing to weigh; set "
                f"data.size_px to {2 * cell_px} or more"
            )
        if seen.shape[1] == 1 and learner.video_model.unet.inserted:
            return (
                "clips have one frame, where attention over frames has nothing to weigh; set "
                "data.window.num_frames to 2 or more"
            )
    return (
        "a part that is never run, a reentrant gradient checkpoint, a detached tensor or a contrastive batch "
        "of one is the usual cause"
    )


@contextmanager
def _perturbed(learner: Learner) -> Iterator[None]:
    """While it lasts, every layer and net born silent is heard."""
    nets = learner.video_model.components().values()
    layers = [m for net in nets for m in net.modules() if isinstance(m, Silent)]
    held = {p: p.detach().clone() for layer in layers for p in layer.silent_outputs()}
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    for layer in layers:
        layer.perturb(draw)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in held.items():
                p.copy_(value)
