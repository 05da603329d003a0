"""The text encoder, taught whose facts are whose: of several things, the words of each are to say what they
say in a caption of it alone (structured guidance, Feng et al. 2022, distilled).

The paper encodes noun phrases apart at every sampling and leaves the encoder alone; here the encoder as it
was is the teacher, so that sampling stays as it is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods._objectives import Objective
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods._video_model import VideoModel
from vgen.methods.image._composition import Parts, composed, plan
from vgen.spec import spec
from vgen.toybox.clauses import JOINT, apart


@dataclass
class Composition(Objective):
    """Squared error of the last hidden states against those that the teacher gives of each thing alone, as a
    share of what the targets vary by. ``bound``: the same over the words of the second thing and of those
    after it; 0 where a batch has none."""

    def __post_init__(self) -> None:
        self._teacher: nn.Module = nn.Identity()

    def begin(self, model: ImageModel) -> None:
        self._teacher = copy.deepcopy(model.text_encoders[0]).eval().requires_grad_(False)

    def loss(self, video_model: VideoModel, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        model = video_model.model
        encoder, tokenizer = model.text_encoders[0], model.tokenizer
        begin, end, length = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length

        def words(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids

        plans = [plan(_parts(text), words, begin, end, length) for text in batch.captions]
        teacher = self._teacher.to(encoder.device)
        with torch.no_grad():
            targets = composed(plans, lambda ids: teacher(ids).last_hidden_state, encoder.device)
        states = encoder(torch.tensor([p.sources[0] for p in plans], device=encoder.device)).last_hidden_state
        astray = (states - targets).square().sum(-1) / (targets - targets.mean((0, 1))).square().sum(
            -1
        ).mean()
        own = torch.zeros(astray.shape, dtype=torch.bool)
        for row, p in zip(own, plans, strict=True):
            row[p.own] = True
        bound = astray.detach()[own.to(astray.device)]
        return {"loss": astray.mean(), "bound": bound.mean() if len(bound) else astray.new_zeros(())}


@method(
    "text_binding",
    paper=Paper(
        "Training-Free Structured Diffusion Guidance for Compositional Text-to-Image Synthesis",
        "2212.05032",
        2022,
    ),
    regime=Regime.IMAGE,
)
@spec
class TextBinding(Recipe):
    """Has no knobs: what is learnt is given by the captions."""

    def objective(self, model: ImageModel) -> Composition:
        return Composition()

    def learns(self) -> tuple[str, ...]:
        return ("text_encoder.text_model.*",)


def _parts(text: str) -> Parts:
    found = apart(text)
    return Parts(found.before, found.clauses, found.after, JOINT)
