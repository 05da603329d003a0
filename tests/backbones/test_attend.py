"""Attention is attention, by whichever kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vgen.backbones.attend import FEW_KEYS, attend


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (8, 8), (40, 13), (5, FEW_KEYS), (5, FEW_KEYS + 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_torchs_own_in_value_and_gradient(
    queries: int, keys: int, dtype: torch.dtype, scale: float | None, masked: bool
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 3, n, 6).to(dtype).requires_grad_() for n in (queries, keys, keys))
    mask = torch.rand(queries, keys) > 0.3 if masked else None
    if mask is not None:
        mask[:, 0] = True
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    ours, theirs = (
        attend(q, k, v, mask, scale),
        F.scaled_dot_product_attention(*exact, attn_mask=mask, scale=scale),
    )
    limits = {"atol": 3e-2, "rtol": 3e-2} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(ours.double(), theirs, **limits)
    along = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), along),
        torch.autograd.grad(theirs, exact, along.double()),
        strict=True,
    ):
        torch.testing.assert_close(a.double(), b, **limits)


@pytest.mark.parametrize("keys", [16, 77, FEW_KEYS])
def test_in_bf16_it_rounds_as_attention_without_a_fused_kernel_does(keys: int) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(64, 8, n, 40) for n in (16, keys, keys)]
    rounded = [x.bfloat16() for x in exact]
    truth = F.scaled_dot_product_attention(*(x.double() for x in rounded))
    ours, theirs = (
        (f(*rounded).double() - truth).abs().mean() for f in (attend, F.scaled_dot_product_attention)
    )
    assert (
        ours < 2.5 * theirs < 0.01 * truth.abs().mean()
    )  # scores are rounded to bf16: .4 % of the output for .2 %
