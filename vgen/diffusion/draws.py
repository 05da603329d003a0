"""Random numbers as a pure function of (run seed, sample id, epoch), so that they survive a resume and any change of world size."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """One generator per sample of a batch and per purpose; numbers are made on the CPU, so that every device sees the same ones."""

    seed: int
    keys: Sequence[tuple[str, int]]  # (sample id, epoch)

    def _generators(self, purpose: str) -> list[torch.Generator]:
        out = []
        for sample_id, epoch in self.keys:
            digest = hashlib.blake2b(f"{self.seed}/{sample_id}/{epoch}/{purpose}".encode(), digest_size=8).digest()
            out.append(torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1))
        return out

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal, shape and device of ``like`` (b ...), float32 before the cast."""
        rows = [torch.randn(like.shape[1:], generator=g) for g in self._generators(purpose)]
        return torch.stack(rows).to(like.device, like.dtype)

    def integers(self, purpose: str, high: int, device: torch.device) -> Tensor:
        """Uniform integers in [0, high), shape b."""
        return torch.cat([torch.randint(high, (1,), generator=g) for g in self._generators(purpose)]).to(device)

    def uniform(self, purpose: str, device: torch.device) -> Tensor:
        """Uniform in [0, 1), shape b."""
        return torch.cat([torch.rand(1, generator=g) for g in self._generators(purpose)]).to(device)
