"""The motion module against its own definition."""

from __future__ import annotations

import math

import torch

from vgen.backbones.conditioning import ForwardContext
from vgen.layers.motion_module import MotionModule, MotionModuleSpec, sinusoid
from vgen.layers.norm import NormScope


def module(scope: NormScope) -> tuple[MotionModule, ForwardContext]:
    torch.manual_seed(0)
    frames = ForwardContext()
    made = MotionModule(32, MotionModuleSpec(norm_scope=scope, heads=4), 8, frames).double()
    torch.nn.init.normal_(made.temporal_transformer.proj_out.weight)
    return made, frames


@torch.no_grad()
def test_positions_see_only_their_own_place_in_other_frames() -> None:
    made, frames = module(NormScope.FRAME)
    frames.num_frames = 3
    made.temporal_transformer.norm = torch.nn.Identity()  # GroupNorm alone mixes places
    x = torch.randn(3, 32, 4, 4, dtype=torch.float64)
    y = x.clone()
    y[2, :, 1, 2] += 1
    changed = (made(x) != made(y)).any(1)
    assert changed[:, 1, 2].all()
    changed[:, 1, 2] = False
    assert not changed.any()


@torch.no_grad()
def test_norm_scopes_agree_on_a_still_clip_and_differ_on_a_moving_one() -> None:
    (frame, f1), (clip, f2) = module(NormScope.FRAME), module(NormScope.CLIP)
    f1.num_frames = f2.num_frames = 4
    still = torch.randn(1, 32, 4, 4, dtype=torch.float64).expand(4, -1, -1, -1)
    torch.testing.assert_close(frame(still), clip(still))
    moving = (
        torch.randn(4, 32, 4, 4, dtype=torch.float64)
        * torch.arange(1, 5, dtype=torch.float64)[:, None, None, None]
    )
    assert not torch.allclose(frame(moving), clip(moving))


@torch.no_grad()
def test_the_order_of_frames_matters() -> None:
    made, frames = module(NormScope.FRAME)
    frames.num_frames = 4
    x = torch.randn(4, 32, 2, 2, dtype=torch.float64)
    assert not torch.allclose(made(x.flip(0)).flip(0), made(x))


def test_the_table_is_vaswanis() -> None:
    table = sinusoid(24, 8)[0]
    assert table[0].tolist() == [0, 1] * 4
    torch.testing.assert_close(table[5, 2:4], torch.tensor([math.sin(0.5), math.cos(0.5)]))  # 5 / 10000^(2/8)


def test_what_lies_in_another_order_and_learns_nothing_does_not_end_the_process() -> None:
    """As behind SDXL's linear projections: the first layer inserted gets channels-last features that need no
    gradient, on which torch's backward of GroupNorm reads beyond memory."""
    made, frames = module(NormScope.FRAME)
    frames.num_frames = 2
    x = torch.randn(2, 32, 4, 4, dtype=torch.float64)
    strides: list[tuple[int, ...]] = []
    made.register_forward_pre_hook(lambda _, args: strides.append(args[0].stride()))
    given = x.contiguous(memory_format=torch.channels_last)
    assert given.stride() != x.stride()
    out = made.after(made, (given,), given)
    assert strides == [x.stride()]
    out.sum().backward()
    ours = made.temporal_transformer.norm.weight.grad.clone()
    made.zero_grad()
    made.after(made, (x,), x).sum().backward()
    torch.testing.assert_close(ours, made.temporal_transformer.norm.weight.grad)
