"""The text encoder learns from itself as it was loaded."""

from __future__ import annotations

import torch

from vgen.app.loading import TOYBOX, load_backbone
from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.methods import assemble
from vgen.methods.image.text_binding import TextBinding

ONE = "a red ring that drifts left fast on a navy background"
TWO = "a red ring that drifts left fast and a small blue star that rests on a navy background"


def test_one_thing_is_right_until_the_encoder_moves_away_from_its_teacher() -> None:
    model: ImageModel = load_backbone(TOYBOX)
    recipe = TextBinding()
    objective, video_model = recipe.objective(model), assemble(recipe, model)
    objective.begin(model)

    def loss(*captions: str) -> dict[str, float]:
        keys = [(text, 0) for text in captions]
        with torch.no_grad():
            return {
                k: float(v)
                for k, v in objective.loss(video_model, Batch(keys, list(captions)), Draws(0, keys)).items()
            }

    assert loss(ONE) == {"loss": 0.0, "bound": 0.0}
    two = loss(ONE, TWO)
    assert two["loss"] > 0
    assert 0 < two["bound"] < 0.05  # the shipped encoder was taught this
    with torch.no_grad():
        model.text_encoders[0].text_model.final_layer_norm.weight.mul_(1.5)
    assert loss(ONE)["loss"] > 0.1
