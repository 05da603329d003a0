"""What a decoder over frames is trained on: clips given back from their latents, and a critic of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods._objectives import Objective
from vgen.methods._recipe import VAE
from vgen.methods._video_model import VideoModel

CRITIC = "critic"
"""The adversary's name among the nets beside the UNet."""


@dataclass(slots=True, kw_only=True)
class AdversarialDecoding(Objective):
    """Mean absolute error of clips decoded from their own latents, and ``adversarial`` times what the critic
    says against them. The critic learns in the same step, by the hinge loss (Lim and Ye 2017).

    One loss serves both: the decoder's term sees the critic's weights as constants, the critic's terms see
    the decoder's clips as constants, so that each has the gradient that an optimiser of its own would give
    it.
    """

    adversarial: float

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        model, critic = video_model.model, video_model.modules[CRITIC]
        real = batch.pixels(model.vae.device)
        with torch.no_grad():
            latents = model.unscaled(model.encode(real))
        made = video_model.modules[VAE](latents).float()
        parts = {"l1": (made - real).abs().mean(), "against": -_frozen(critic, made).mean()}
        parts["critic"] = _hinge(critic(real), critic(made.detach()))
        return {"loss": parts["l1"] + self.adversarial * parts["against"] + parts["critic"], **parts}


def _frozen(critic: nn.Module, clips: Tensor) -> Tensor:
    """The critic's scores, without gradient to its weights."""
    weights = {name: value.detach() for name, value in critic.named_parameters()}
    return functional_call(critic, weights, (clips,))


def _hinge(real: Tensor, made: Tensor) -> Tensor:
    """Zero where real patches score above 1 and made ones below -1."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()
