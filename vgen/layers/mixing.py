"""How an inserted layer's branch over frames is mixed with its site's own output (Blattmann et al. 2023,
Align your Latents, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.silent import Draw
from vgen.layers.insertion import Inserted
from vgen.spec import Choice

HALF = 0.5


class Mixing(Choice):
    """What ``mix_factor`` means.

    - ``share``: alpha itself, the site's share, 1 at birth: the layer is silent (Align your Latents).
    - ``sigmoid``: its sigmoid is the site's share, .5 at birth (Stable Video Diffusion's UNet).
    - ``sigmoid_of_frames``: its sigmoid is the share of the branch over frames, 0 at birth (Stable Video
      Diffusion's decoder).
    """

    SHARE = "share"
    SIGMOID = "sigmoid"
    SIGMOID_OF_FRAMES = "sigmoid_of_frames"


AT_BIRTH = {Mixing.SHARE: 1.0, Mixing.SIGMOID: HALF, Mixing.SIGMOID_OF_FRAMES: 0.0}


class MixedLayer(Inserted):
    """Returns alpha x + (1 - alpha) times what the layer makes of x over frames. One alpha a layer."""

    def __init__(self, mixing: Mixing, context: ForwardContext) -> None:
        super().__init__(context)
        self.mixing = mixing
        self.mix_factor = nn.Parameter(torch.tensor([AT_BIRTH[mixing]]))

    def alpha(self) -> Tensor:
        """The site's share, in 0..1.

        A share that learning drives out of its interval is reflected at the end it left by. Cut off there, a
        layer whose first step went above 1 would never get a gradient again.
        """
        match self.mixing:
            case Mixing.SHARE:
                below_one = torch.where(self.mix_factor > 1, 2 - self.mix_factor, self.mix_factor)
                return below_one.abs()
            case Mixing.SIGMOID:
                return self.mix_factor.sigmoid()
            case Mixing.SIGMOID_OF_FRAMES:
                return 1 - self.mix_factor.sigmoid()

    def mixed(self, x: Tensor, over_frames: Tensor) -> Tensor:
        """Both in the shape of ``x``."""
        alpha = self.alpha().to(x.dtype)
        return alpha * x + (1 - alpha) * over_frames

    def silent_outputs(self) -> list[nn.Parameter]:
        return [self.mix_factor]

    def perturb(self, draw: Draw) -> None:
        """Half of each branch, so that both are looked at."""
        with torch.no_grad():
            self.mix_factor.fill_(HALF)
