"""The contrastive loss against what can be worked out by hand."""

from __future__ import annotations

import math

import torch

from vgen.methods.image._losses import contrastive_loss

NONE, NOBODY = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)


def test_orthogonal_pairs_that_agree() -> None:
    eye = torch.eye(3)
    scale = 20.0
    expected = -math.log(math.exp(scale) / (math.exp(scale) + 2))
    torch.testing.assert_close(
        contrastive_loss(eye, eye, NONE, NOBODY, scale), torch.tensor(expected), atol=1e-6, rtol=1e-4
    )


def test_no_agreement_is_a_guess_among_the_batch() -> None:
    same = torch.ones(4, 3)
    torch.testing.assert_close(contrastive_loss(same, same, NONE, NOBODY, 20.0), torch.tensor(math.log(4)))


def test_a_hard_negative_counts_for_its_owner_alone() -> None:
    eye = torch.eye(3)
    wrong = eye[1:2]  # as good as the right one for row 1, worthless for the others
    plain = contrastive_loss(eye, eye, NONE, NOBODY, 20.0)
    more = contrastive_loss(eye, eye, wrong, torch.tensor([1]), 20.0) - plain
    torch.testing.assert_close(more, torch.tensor(math.log(2) / 6), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        contrastive_loss(eye, eye, wrong, torch.tensor([0]), 20.0), plain, atol=1e-6, rtol=0
    )


def test_lengths_do_not_matter() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(
        contrastive_loss(5 * a, b, NONE, NOBODY, 20.0), contrastive_loss(a, 0.1 * b, NONE, NOBODY, 20.0)
    )
