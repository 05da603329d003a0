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

    ``READS_INPUT`` says that it wants the site's own input beside the site's output, ``READS_TIME`` that it
    wants the embedding of diffusion time where the site is given one, ``HOSTS`` that its own projections are
    sites for others, ``OVER_TIME`` that it is left out where frames are pictures of their own.
    ``recomputed`` says whether backward runs the layer again instead of
    keeping what lies within it. ``strength`` scales what it adds.
    """

    READS_INPUT: ClassVar[bool] = False
    READS_TIME: ClassVar[bool] = False
    HOSTS: ClassVar[bool] = True
    OVER_TIME: ClassVar[bool] = False

    def __init__(self, context: ForwardContext) -> None:
        super().__init__()
        self.context = context
        self.recomputed = False
        self.strength = 1.0

    @abstractmethod
    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """The site's output ``x`` to the same shape; ``given`` is the site's input, and the embedding of
        diffusion time, where they are wanted."""

    def untouched(self, x: Tensor) -> Tensor:
        """``x`` as it is, with the parameters in its graph at weight 0: data-parallel training waits for the
        gradient of every one."""
        return x + 0 * sum(p.sum() for p in self.parameters())

    def after(self, _site: nn.Module, args: tuple, out: Any) -> Any:
        """The hook. A bound method survives deepcopy and pickle, a closure keeps the original layer."""
        if self.OVER_TIME and self.context.conditioning.stills:
            return out
        wanted = args[not self.READS_INPUT : 2 if self.READS_TIME else 1]
        given = tuple(one for one in wanted if one is not None)
        x = out[0] if isinstance(out, tuple) else out
        if not x.requires_grad:
            # Behind a linear projection (Stable Diffusion 2, SDXL) x lies in channels-last order. GroupNorm's
            # backward on a CPU then ends the process where its weight learns and x needs no gradient
            # (torch 2.13).
            x = x.contiguous()
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
