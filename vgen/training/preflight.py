"""Proof before the first step: everything that is meant to learn gets a finite, non-zero gradient, and
nothing else gets any.

Layers born silent pass no gradient upstream at step 0, so the look is at perturbed zero outputs. They are put
back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vgen.backbones.silent import Silent
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.training.learner import Learner

MAX_NAMED = 12
FP16_SCALE = 1024  # as a gradient scaler does: small gradients would be zeros in half precision


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
        raise ValueError(
            f"pre-flight: {len(report)} parameters are not trained as {', '.join(learner.recipe.learns())} "
            "says: "
            + "; ".join(report[:MAX_NAMED])
            + (f" and {len(report) - MAX_NAMED} more" if len(report) > MAX_NAMED else "")
            + "; a part that is never run, a reentrant gradient checkpoint, a detached tensor, a window of "
            "one frame, pictures so small that the UNet's middle is one cell (below 128 px for Stable "
            "Diffusion), or a contrastive batch of one is the usual cause"
        )
    return len(learner.learning)


def _report(learner: Learner) -> list[str]:
    out = []
    everything = dict(learner.parts.named_parameters())
    for name, module in learner.video_model.components().items():
        if name not in learner.parts:
            everything |= {f"(frozen) {name}.{n}": p for n, p in module.named_parameters()}
    for name, parameter in everything.items():
        if name in learner.learning:
            if parameter.grad is None:
                out.append(f"{name} gets no gradient")
            elif not torch.isfinite(parameter.grad).all():
                out.append(f"{name} gets a gradient that is not finite")
            elif not parameter.grad.any():
                out.append(f"{name} gets a gradient of zero")
        elif parameter.grad is not None:
            out.append(f"{name} is frozen but gets a gradient")
    return out


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
