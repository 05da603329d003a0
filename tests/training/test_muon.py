"""Muon and AdamW as one optimiser: orthogonal steps for matrices, AdamW for the rest, and a resume that
continues exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vgen.training.muon import LR_RATIO, MuonAdamW, StackedMuon
from vgen.training.optimisation import Decay, Optimisation, Optimiser


def net() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 16, 3), nn.Conv2d(16, 24, 3)
    return nn.Sequential(
        first, nn.GroupNorm(4, 16), nn.SiLU(), second, nn.SiLU(), nn.Flatten(), nn.Linear(24 * 16, 12)
    )


def steps(model: nn.Module, optimiser: torch.optim.Optimizer, num: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        optimiser.zero_grad()
        model(torch.randn(64, 4, 8, 8, generator=generator)).square().mean().backward()
        optimiser.step()


def test_a_step_of_a_matrix_is_nearly_orthogonal() -> None:
    model = net()
    before = model[6].weight.detach().clone()
    steps(model, MuonAdamW(list(model.parameters()), lr=1e-3, weight_decay=0.0), 1)
    values = torch.linalg.svdvals((model[6].weight.detach() - before) / (1e-3 * LR_RATIO))
    assert values.min() > 0.5
    assert values.max() < 1.5, "all directions are stepped along alike"


def test_convolutions_are_matrices_and_biases_are_not() -> None:
    model = net()
    optimiser = MuonAdamW(list(model.parameters()), lr=1e-3, weight_decay=0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    assert [names[id(p)] for p, _ in optimiser._pairs] == ["0.weight", "3.weight", "6.weight"]
    before = model[3].weight.detach().clone()
    steps(model, optimiser, 1)
    assert not torch.equal(model[3].weight, before), "a view shares its storage with the parameter"


def test_channels_last_steps_alike() -> None:
    plain, last = net(), net().to(memory_format=torch.channels_last)
    assert not last[3].weight.is_contiguous()
    for model in (plain, last):
        steps(model, MuonAdamW(list(model.parameters()), lr=1e-3, weight_decay=0.0), 3)
    for a, b in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-3)  # rounding of bfloat16; three steps are .03 long
    assert not torch.equal(last[3].weight, net()[3].weight)


def test_a_schedule_reaches_both_parts() -> None:
    model = net()
    settings = Optimisation(kind=Optimiser.MUON, lr=1e-3, warmup_steps=10, decay=Decay.COSINE)
    optimiser, schedule = settings.build(list(model.parameters()), 100)
    rates = [group["lr"] for group in optimiser.param_groups]
    assert sorted(rates) == pytest.approx([1e-4, 1e-4 * LR_RATIO])
    for _ in range(9):
        optimiser.step()
        schedule.step()
    assert sorted(group["lr"] for group in optimiser.param_groups) == pytest.approx([1e-3, 1e-3 * LR_RATIO])


def test_a_resumed_run_goes_on_exactly() -> None:
    model = net()
    optimiser = MuonAdamW(list(model.parameters()), lr=1e-3, weight_decay=1e-2)
    steps(model, optimiser, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimiser.state_dict())
    steps(model, optimiser, 3, seed=2)
    again = net()
    again.load_state_dict(weights)
    resumed = MuonAdamW(list(again.parameters()), lr=1e-3, weight_decay=1e-2)
    resumed.load_state_dict(state)
    steps(again, resumed, 3, seed=2)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_state_of_another_optimiser_is_refused() -> None:
    model = net()
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match=r"optimiser is not muon's"):
        MuonAdamW(list(model.parameters()), lr=1e-3, weight_decay=0.0).load_state_dict(other.state_dict())


@pytest.mark.parametrize("rule", ["original", "match_rms_adamw"])
def test_stacked_steps_are_torchs_own(rule: str) -> None:
    torch.manual_seed(3)
    shapes = [(16, 36), (16, 36), (48, 12), (48, 12), (20, 20)]
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": rule}
    optimisers = [StackedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=2e-3
        )  # bfloat16 products of another order; three steps are .03 long
