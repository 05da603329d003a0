"""What an inserted attention over frames shows to whoever records or edits it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class FrameRouter(Protocol):
    """Stands in for the attention while it acts. A plain object, so that a copy or a pickle of the net
    carries a router of its own."""

    @property
    def acts(self) -> bool: ...

    def __call__(
        self, attention: FrameAttending, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor, /
    ) -> Tensor:
        """``... f c`` each, ``hidden`` what the projections were made from; returns ``... f c``, after
        ``to_out``."""


class FrameAttending(nn.Module, ABC):
    """Self-attention over frames, ``... f c``, whose leading axes hold clips before positions.

    Without a router that acts, ``fused`` is what runs.
    """

    heads: int
    to_out: nn.ModuleList
    router: FrameRouter | None = None

    @abstractmethod
    def fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``... f c`` each, to the same before ``to_out``."""

    def attended(self, hidden: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``... f c`` each, to the same after ``to_out``."""
        router = self.router
        if router is not None and router.acts:
            return router(self, hidden, q, k, v)
        return self.to_out[0](self.fused(q, k, v))
