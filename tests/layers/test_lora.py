"""Low-rank layers against the equations that they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.layers.lora import LowRank, LowRankSpec, extract, merge, product, summed

HOSTS = {
    "linear": lambda: nn.Linear(12, 20),
    "one by one": lambda: nn.Conv2d(12, 20, 1),
    "three by three": lambda: nn.Conv2d(12, 20, 3, padding=1),
    "strided": lambda: nn.Conv2d(12, 20, 3, stride=2, padding=1),
}
hosts = pytest.mark.parametrize("host", [make().double() for make in HOSTS.values()], ids=list(HOSTS))


def given(host: nn.Module) -> Tensor:
    shape = (3, 7, 12) if isinstance(host, nn.Linear) else (3, 12, 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def layer(host: nn.Module, rank: int = 4, seed: int = 1, alpha: float = 2.0) -> LowRank:
    torch.manual_seed(seed)
    made = LowRank(host, rank, alpha, ForwardContext()).double()
    nn.init.normal_(made.up.weight)
    return made


def beside(host: nn.Module, x: Tensor, *layers: LowRank) -> Tensor:
    out = host(x)
    for one in layers:
        out = one.after(host, (x,), out)
    return out


def merged(host: nn.Module, *layers: LowRank) -> nn.Module:
    torch.manual_seed(0)
    twin = type(host)(*_shape(host))
    twin.double().load_state_dict(host.state_dict())
    merge(twin.weight, list(layers))
    return twin


def _shape(host: nn.Module) -> tuple:
    if isinstance(host, nn.Linear):
        return host.in_features, host.out_features
    assert isinstance(host, nn.Conv2d)
    return host.in_channels, host.out_channels, host.kernel_size, host.stride, host.padding


@hosts
@torch.no_grad()
def test_born_silent(host: nn.Module) -> None:
    x = given(host)
    fresh = LowRank(host, 4, 4.0, ForwardContext()).double()
    assert torch.equal(beside(host, x, fresh), host(x))


@hosts
@torch.no_grad()
def test_merged_is_run_beside(host: nn.Module) -> None:
    x, one, other = given(host), layer(host), layer(host, rank=2, seed=5)
    one.strength = 0.7
    torch.testing.assert_close(merged(host, one)(x), beside(host, x, one))
    torch.testing.assert_close(merged(host, one, other)(x), beside(host, x, one, other))


@hosts
@torch.no_grad()
def test_what_was_merged_is_extracted(host: nn.Module) -> None:
    x, one = given(host), layer(host)
    delta = merged(host, one).weight - host.weight
    down, up = extract(delta, 4)
    torch.testing.assert_close(product(down, up), one.delta())
    again = layer(host, alpha=4.0)
    again.down.weight.copy_(down)
    again.up.weight.copy_(up)
    torch.testing.assert_close(beside(host, x, again), beside(host, x, one))


@torch.no_grad()
def test_a_lower_rank_leaves_the_tail_of_the_singular_values() -> None:
    delta = torch.randn(20, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left = delta - product(*extract(delta, 5))
    torch.testing.assert_close(left.norm(), torch.linalg.svdvals(delta)[5:].norm())


@hosts
@torch.no_grad()
def test_the_sum_of_two_is_both(host: nn.Module) -> None:
    one, other = layer(host), layer(host, rank=2, seed=5, alpha=4.0)
    parts = [(p.scale * p.down.weight, p.up.weight) for p in (one, other)]
    down, up = summed(parts)
    assert len(down) == 6
    torch.testing.assert_close(product(down, up), one.delta() + other.delta())


def test_an_unheard_layer_changes_nothing() -> None:
    host = HOSTS["linear"]().double()
    x, one = given(host), layer(host)
    one.strength = 0.0
    assert torch.equal(beside(host, x, one), host(x))


def test_convolutions_of_several_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="a Linear or a Conv2d of one group"):
        LowRank(nn.Conv2d(8, 8, 3, groups=2), 4, 4.0, ForwardContext())


@pytest.mark.parametrize(("knobs", "said"), [({"rank": 0}, "rank"), ({"alpha": -1.0}, "alpha")])
def test_knobs_that_mean_nothing_are_refused(knobs: dict, said: str) -> None:
    with pytest.raises(ValueError, match=f"lora {said} must be"):
        LowRankSpec(**knobs)
