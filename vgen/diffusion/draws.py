"""Random numbers as a pure function of (run seed, sample id, epoch), so that they survive a resume and any
change of world size."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STRIDE = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64; torch has no arithmetic on uint64
_MIX = ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64)), (31, 1))


@dataclass(frozen=True, slots=True)
class Draws:
    """Streams of numbers, one per sample of a batch and per purpose.

    A number is a hash of its place in its stream (SplitMix64: Steele, Lea and Flood 2014), so a whole batch
    is drawn at once on the device that needs it, and the CPU waits for nothing. Every device draws the same
    integers and, up to rounding in the last digits, the same normal numbers. ``progress`` is the share of
    training that is done, 0 to 1, for what is drawn otherwise in its course.
    """

    seed: int
    keys: Sequence[tuple[str, int]]  # (sample id, epoch)
    progress: float = 1.0

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal, shape and device of ``like`` (b ...), float32 before the cast (Box and Muller
        1958)."""
        size = like[0].numel()
        pairs = self._uniform(purpose, 2 * math.ceil(size / 2), like.device).unflatten(1, (-1, 2))
        radius, angle = (-2 * pairs[..., 0].log()).sqrt(), 2 * math.pi * pairs[..., 1]
        rows = torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)
        return rows[:, :size].reshape(like.shape).to(like.dtype)

    def integers(self, purpose: str, high: int, device: torch.device) -> Tensor:
        """Integers in [0, high), shape b; ``high`` up to 2^31."""
        return _shifted(self._bits(purpose, 1, device)[:, 0], 33) % high

    def uniform(self, purpose: str, device: torch.device) -> Tensor:
        """Uniform in (0, 1), shape b."""
        return self._uniform(purpose, 1, device)[:, 0]

    def _uniform(self, purpose: str, count: int, device: torch.device) -> Tensor:
        """b n in (0, 1): 23 bits and a half, which float32 holds exactly and which are never 0 or 1."""
        return (_shifted(self._bits(purpose, count, device), 41).float() + 0.5) * 2**-23

    def _bits(self, purpose: str, count: int, device: torch.device) -> Tensor:
        """The first ``count`` numbers of every stream, int64 b n."""
        names = (f"{self.seed}/{sample_id}/{epoch}/{purpose}" for sample_id, epoch in self.keys)
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        starts = torch.frombuffer(bytearray(digests), dtype=torch.int64).to(device)
        out = starts[:, None] + _STRIDE * torch.arange(1, count + 1, device=device)
        for shift, factor in _MIX:
            out = (out ^ _shifted(out, shift)) * factor
        return out


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right; torch's own keeps the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
