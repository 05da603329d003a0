"""A person's picture in the text's place: CLIP's tokens by one matrix (DisCo, Wang et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.picture_tokens import TokenProjection, normed_tokens, tower_fingerprint, unseen_tokens
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.conditions.text import Text
from vgen.diffusion.moment import Moment
from vgen.spec import spec

TOKENS = "person_tokens"
"""The field that is made of ``reference``: CLIP's normed states b n d."""


@spec
class PersonTokens(Condition):
    """Owns the cross-attention. Reads ``reference``, uint8 b n 3 H W, of which the first picture counts. A
    row that drops it sees the mean colour."""

    def reads(self) -> tuple[str, ...]:
        return ("reference",)

    def stands_for(self, other: Condition) -> bool:
        """No text is heard beside it."""
        return isinstance(other, Text)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        if TOKENS in fields:
            return Prepared()
        return Prepared(clip={TOKENS: normed_tokens(model, fields["reference"][:, 0])})

    def fingerprint(self, model: ImageModel) -> str:
        return f"tokens of the reference {tower_fingerprint(model)}"

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert isinstance(module, TokenProjection)  # the wiring's
        if module.nothing is None:
            with torch.no_grad():
                module.nothing = unseen_tokens(model)
        weight = module.linear.weight
        said, unsaid = (module(seen.to(weight)) for seen in (fields[TOKENS], module.nothing))
        return Encoded(clip={"tokens": said}, null={"tokens": unsaid})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(crossattn=Context(encoded.clip["tokens"]))
