"""``python parts_of_a_net.py``, one of two processes: a small net learns under DeepSpeed and alone, and what
is held of it is the same, comes back the same, and goes on the same under another stage. So does the loss
scale of fp16."""

from __future__ import annotations

import argparse
import math
import os
from types import SimpleNamespace
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from torch import Tensor, nn

from vgen.training.held import Learning, Whole
from vgen.training.partitions import gathered, own_part, part_of
from vgen.training.zero import InParts

STEPS = 3
PAIRS = ((1, 2), (2, 3), (3, 1))  # stages of ZeRO: one learns, the other goes on


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))


def adam(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, fused=True)


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The same on both processes, so that their mean is what one process has."""
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
    return model(inputs).square().mean()


def engine_of(stage: int) -> Any:
    model = net()
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 10},
    }
    engine, *_ = deepspeed.initialize(
        args=argparse.Namespace(device_rank=int(os.environ["LOCAL_RANK"])),
        config=settings,
        model=model,
        optimizer=adam(model),
        model_parameters=list(model.parameters()),
        dist_init_required=False,
    )
    return engine


def learn(engine: Any, steps: range) -> None:
    for step in steps:
        engine.backward(loss_of(engine, step))
        engine.step()


def learn_alone(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimiser.zero_grad()
        loss_of(model, step).backward()
        optimiser.step()


class Shelf:
    """Fetched tensors, as an opened safetensors file gives them."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.tensors = {name: entry.fetch().detach().clone() for name, entry in entries.items()}

    def keys(self) -> list[str]:
        return list(self.tensors)

    def get_tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def held_by(engine: Any) -> Learning:
    named = dict(engine.module.named_parameters())
    return Learning(named, InParts(engine.optimizer), {})


def alike(got: Learning, want: Learning) -> None:
    assert got.steps() == want.steps()
    for of in (Learning.weights, Learning.moments):
        a, b = Shelf(of(got)), Shelf(of(want))
        assert a.keys() == b.keys()
        for name in b.tensors:
            torch.testing.assert_close(a.get_tensor(name), b.get_tensor(name), atol=1e-7, rtol=1e-5)


def comes_back(stage: int, former: Learning) -> Any:
    """An engine of ``stage`` that took over what ``former`` holds has it to the bit."""
    weights, moments = Shelf(former.weights()), Shelf(former.moments())
    engine = engine_of(stage)
    taken = held_by(engine)
    taken.put(weights, moments, former.steps())
    for before, after in ((weights, Shelf(taken.weights())), (moments, Shelf(taken.moments()))):
        for name in before.tensors:
            assert torch.equal(before.get_tensor(name), after.get_tensor(name)), (stage, name)
    assert taken.steps() == former.steps()
    return engine


def parts_make_the_whole(engine: Any) -> None:
    """Of averages every rank keeps what it has of the weights; the padding at the end is nobody's."""
    held = InParts(engine.optimizer)
    for parameter in engine.module.parameters():
        value = gathered(parameter, own_part(parameter).float())
        assert torch.equal(value, held.weight(parameter).fetch())
        assert torch.equal(gathered(parameter, part_of(parameter, value)), value)


# -- the loss scale of fp16 ----------------------------------------------------------------------------------
PATIENCE, SCALE = 4, 2.0**10
OVERFLOWS = (False, True, False, False, False, False, False, True, True, False, False, False, False, False)
"""Of each step, whether gradients overflow."""


class OfTorch:
    """Torch's scaler in steps of a net, whose loss is infinite where the gradients are to overflow."""

    def __init__(self) -> None:
        self.model = net()
        self.optimiser = adam(self.model)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=PATIENCE)
        self.held = Whole(self.optimiser, self.scaler)

    def step(self, overflows: bool) -> None:
        self.optimiser.zero_grad()
        loss = loss_of(self.model, 0) * (math.inf if overflows else 1.0)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()


class OfDeepSpeed:
    """DeepSpeed's scaler, which forgives one overflow."""

    def __init__(self) -> None:
        self.scaler = DynamicLossScaler(SCALE, PATIENCE, 1.0, 2, False)
        self.held = InParts(SimpleNamespace(loss_scaler=self.scaler))

    def step(self, overflows: bool) -> None:
        self.scaler.update_scale(overflows)


Scaler = OfTorch | OfDeepSpeed


def after(kind: type[Scaler], num_steps: int) -> Scaler:
    scaler = kind()
    for overflows in OVERFLOWS[:num_steps]:
        scaler.step(overflows)
    return scaler


def scales_come_back(kind: type[Scaler]) -> None:
    """After every step, and what follows is the same."""
    for moved_at in range(len(OVERFLOWS)):
        stays, goes = after(kind, moved_at), kind()
        goes.held.put_scale(stays.held.scale())
        for overflows in OVERFLOWS[moved_at:]:
            assert goes.held.scale() == stays.held.scale(), (kind, moved_at)
            goes.step(overflows)
            stays.step(overflows)


def until_doubled(scaler: Scaler) -> int:
    """Steps without an overflow."""
    before, count = scaler.held.scale()["scale"], 0
    while scaler.held.scale()["scale"] < 2 * before:
        scaler.step(False)
        count += 1
    return count


def scales_go_over(first: type[Scaler], second: type[Scaler]) -> None:
    """To the other kind of scaler, where the scale is doubled when it would have been."""
    for moved_at in range(len(OVERFLOWS)):
        stays, goes = after(first, moved_at), second()
        goes.held.put_scale(stays.held.scale())
        assert goes.held.scale()["scale"] == stays.held.scale()["scale"]
        assert until_doubled(goes) == until_doubled(stays), (first, moved_at)


def scales() -> None:
    for kind in (OfTorch, OfDeepSpeed):
        scales_come_back(kind)
    scales_go_over(OfTorch, OfDeepSpeed)
    scales_go_over(OfDeepSpeed, OfTorch)
    unscaled = Whole(adam(net()))
    unscaled.put_scale(after(OfTorch, 3).held.scale())
    assert unscaled.scale() is None


def main() -> None:
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else g++ builds it
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    scales()
    for first, second in PAIRS:
        alone = net()
        optimiser = adam(alone)
        learn_alone(alone, optimiser, range(STEPS))
        want = Learning(dict(alone.named_parameters()), Whole(optimiser), {})
        engine = engine_of(first)
        learn(engine, range(STEPS))
        alike(held_by(engine), want)
        parts_make_the_whole(engine)
        for former in (held_by(engine), want):
            again = comes_back(second, former)
            learn(again, range(STEPS, 2 * STEPS))
        learn_alone(alone, optimiser, range(STEPS, 2 * STEPS))
        alike(held_by(again), want)
    print("alike", flush=True)


if __name__ == "__main__":
    main()
