"""What vgen's first format kept becomes a folder with the same values, and executes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import AVERAGES, MOMENTS, WEIGHTS
from vgen.training.moments import moments_of, put_moments, steps_of
from vgen.training.older_checkpoints import convert
from vgen.training.optimisation import Optimisation, Optimiser


def net() -> nn.Module:
    torch.manual_seed(1)
    parts = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Conv2d(16, 12, 3), nn.Flatten(), nn.LazyLinear(10))
    parts(torch.zeros(1, 4, 8, 8))
    return parts.to(memory_format=torch.channels_last)


def stepped(kind: Optimiser, num_steps: int) -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    model = net()
    optimiser, schedule = Optimisation(kind=kind, lr=1e-3).build(list(model.parameters()), 10)
    go_on(model, optimiser, num_steps)
    for _ in range(num_steps):
        schedule.step()
    return model, optimiser, schedule


def go_on(model: nn.Module, optimiser: torch.optim.Optimizer, num_steps: int) -> None:
    for seed in range(num_steps):
        torch.manual_seed(seed)
        optimiser.zero_grad()
        model(torch.randn(3, 4, 8, 8)).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("kind", list(Optimiser))
def test_a_file_becomes_a_folder_of_the_same_values(tmp_path: Path, kind: Optimiser) -> None:
    model, optimiser, schedule = stepped(kind, 3)
    named = dict(model.named_parameters())
    older = {
        "state_dict": {f"parts.{name}": p.detach() for name, p in named.items()},
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {"Ema": {"num_updates": 3, "average": {n: p.detach() * 2 for n, p in named.items()}}},
        "global_step": 3,
        "record": {"seed": 1, "global_batch": 6},
    }
    torch.save(older, tmp_path / "step-0000003.ckpt")
    found = room.opened(convert(tmp_path / "step-0000003.ckpt"))
    state = found.state
    assert (state.step, state.samples, state.optimizer, state.ema_updates) == (3, 18, kind.value, 3)
    weights, moments, averages = (found.tensors(file) for file in (WEIGHTS, MOMENTS, AVERAGES))
    again = net()
    resumed, _ = Optimisation(kind=kind, lr=1e-3).build(list(again.parameters()), 10)
    for name, parameter in again.named_parameters():
        assert torch.equal(weights[name], named[name])
        assert torch.equal(averages[name], named[name] * 2)
        kept = {key.split(".")[0]: v for key, v in moments.items() if key.partition(".")[2] == name}
        want = moments_of(optimiser, named[name])
        assert kept.keys() == want.keys()
        assert all(torch.equal(kept[key], value) for key, value in want.items())
        parameter.data.copy_(weights[name])
        put_moments(resumed, parameter, kept, state.optimizer_steps.get(name, 0))
        assert steps_of(resumed, parameter) == steps_of(optimiser, named[name])
    for each, its in ((model, optimiser), (again, resumed)):
        go_on(each, its, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


class Poison:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_poisoned_file_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Poison()}, tmp_path / "step-0000003.ckpt")
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        convert(tmp_path / "step-0000003.ckpt")
    assert not (tmp_path / "executed").exists()


def test_what_cannot_be_converted_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "step-0000003.ckpt")
    with pytest.raises(ValueError, match=r"is no checkpoint of a vgen run \(it lacks 'optimizer_states'\)"):
        convert(tmp_path / "step-0000003.ckpt")
    (tmp_path / "step-0000004.ckpt").mkdir()
    with pytest.raises(ValueError, match=r"is DeepSpeed's own .* run\.init_from"):
        convert(tmp_path / "step-0000004.ckpt")
