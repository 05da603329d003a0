"""Attention over frames is attention, by whichever kernel."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vgen.layers.frame_attention import LONGEST, over_frames


@pytest.mark.parametrize("num_frames", [1, 8, LONGEST, LONGEST + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_torchs_own_in_value_and_gradient(num_frames: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 3, num_frames, 6).to(dtype).requires_grad_() for _ in range(3))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    ours, theirs = over_frames(q, k, v), F.scaled_dot_product_attention(*exact)
    limits = {"atol": 3e-2, "rtol": 3e-2} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(ours.double(), theirs, **limits)
    along = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, (q, k, v), along), torch.autograd.grad(theirs, exact, along.double()), strict=True):
        torch.testing.assert_close(a.double(), b, **limits)


def test_in_bf16_it_is_about_as_near_to_the_truth_as_torchs_own() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(64, 8, 16, 40) for _ in range(3)]
    rounded = [x.bfloat16() for x in exact]
    truth = F.scaled_dot_product_attention(*(x.double() for x in rounded))
    ours, theirs = ((f(*rounded).double() - truth).abs().mean() for f in (over_frames, F.scaled_dot_product_attention))
    assert ours < 2 * theirs  # scores are rounded to bf16 here, as without a fused kernel on any device
