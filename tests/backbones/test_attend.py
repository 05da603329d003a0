"""Attention is attention, by whichever kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vgen.backbones import attend as kernels
from vgen.backbones.attend import FEW_FRAMES, FEW_KEYS, NARROW, attend


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bf16", [False, True])
@pytest.mark.parametrize("width", [NARROW, NARROW + 1])
@pytest.mark.parametrize("keys", [FEW_FRAMES, FEW_FRAMES + 1])
def test_the_rule_is_by_type_keys_and_width(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, has_bf16: bool, width: int, keys: int
) -> None:
    """Which kernel ran is seen by the graph of its gradient."""
    monkeypatch.setattr(kernels, "HAS_BF16", has_bf16)
    q = torch.randn(2, 2, keys, width, dtype=dtype, requires_grad=True)
    plain = "Attention" not in type(attend(q, q, q).grad_fn).__name__
    assert plain is (has_bf16 if dtype is torch.bfloat16 else keys <= FEW_FRAMES and width <= NARROW)
