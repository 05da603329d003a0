"""What every inserted layer has in common: a branch beside a site, run by a hook that is a bound method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.silent import Silent
from vgen.backbones.sites import Site
from vgen.spec import spec


class Inserted(Silent):
    """A layer that runs after its site: on ``(b f) c h w``, on ``(b f) n c`` inside a transformer block.

    ``READS_INPUT`` says that it wants the site's own input beside the site's output, ``HOSTS`` that its own
    projections are sites for others, ``OVER_TIME`` that it is left out where frames are pictures of their
    own.
    ``recomputed`` says whether backward runs the layer again instead of
    keeping what lies within it. ``strength`` scales what it adds.
    """

    READS_INPUT: ClassVar[bool] = False
    HOSTS: ClassVar[bool] = True
    OVER_TIME: ClassVar[bool] = False

    def __init__(self, context: ForwardContext) -> None:
        super().__init__()
        self.context = context
        self.recomputed = False
        self.strength = 1.0

    @abstractmethod
    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """The site's output ``x`` to the same shape; ``given`` is the site's input where it is wanted."""

    def after(self, _site: nn.Module, args: tuple, out: Any) -> Any:
        """The hook. A bound method survives deepcopy and pickle, a closure keeps the original layer."""
        if self.OVER_TIME and self.context.conditioning.stills:
            return out
        given = (args[0],) if self.READS_INPUT else ()
        x = out[0] if isinstance(out, tuple) else out
        if self.recomputed and torch.is_grad_enabled():
            changed = self.context.checkpoint(self, x, *given)
        else:
            changed = self(x, *given)
        if self.strength != 1:
            changed = x + self.strength * (changed - x)
        return (changed, *out[1:]) if isinstance(out, tuple) else changed


@spec
class LayerSpec(ABC):
    """Knobs of an inserted layer; ``build`` is where a config value meets the runtime facts of a site.

    ``free`` names knobs that no learnt tensor depends on: training may go on with other values of them.
    """

    free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> Inserted:
        """The layer for ``site``, whose module in the guest is ``module``."""
