"""What every inserted layer has in common: a residual branch, born silent, run by a hook that is a bound
method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vgen.backbones.sites import Site
from vgen.backbones.video_unet import FrameCount
from vgen.spec import spec


class Inserted(nn.Module, ABC):
    """A layer that runs after its site on ``(b f) c h w``."""

    def __init__(self, frames: FrameCount) -> None:
        super().__init__()
        self.frames = frames
        self.recomputed = False
        """Whether backward runs the layer again instead of keeping what lies within it."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``(b f) c h w`` to the same shape."""

    @abstractmethod
    def silent_outputs(self) -> list[nn.Parameter]:
        """The zero-initialised parameters that make the layer an identity at birth; pre-flight perturbs them
        to look behind."""

    def after(self, _site: nn.Module, _args: tuple, out: Any) -> Any:
        # a bound method survives deepcopy and pickle, a closure keeps the original layer
        run = (
            partial(checkpoint, self, use_reentrant=False)
            if self.recomputed and torch.is_grad_enabled()
            else self
        )
        return (run(out[0]), *out[1:]) if isinstance(out, tuple) else run(out)


@spec
class LayerSpec(ABC):
    """Knobs of an inserted layer; ``build`` is where a config value meets the runtime facts of a site.

    ``free`` names knobs that no learnt tensor depends on: training may go on with other values of them.
    """

    free: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def build(self, site: Site, frames: FrameCount) -> Inserted: ...
