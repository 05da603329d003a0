"""Text: the caption, through the image model's own text encoders."""

from __future__ import annotations

from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning, Prepared
from vgen.backbones.image_model import Context, ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.moment import Moment
from vgen.spec import spec


@spec
class Text(Condition):
    """Owns the cross-attention. A row that drops it hears the empty prompt, or its field ``negative``."""

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def prepare(self, model: ImageModel, fields: Fields) -> Prepared:
        """``text`` b n d, and ``pooled`` b d of SDXL; nothing where the text encoders learn."""
        if "text" in fields or model.text_learns():
            return Prepared()
        return Prepared(clip=_named(model.encode_text(list(fields["caption"]))))

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        if "text" in fields:
            own = {name: fields[name] for name in ("text", "pooled") if name in fields}
        else:
            own = _named(model.encode_text(list(fields["caption"])))
        return Encoded(clip=own, null=self._null(model, fields))

    def _null(self, model: ImageModel, fields: Fields) -> dict[str, Tensor]:
        negative = fields.get("negative")
        if negative is not None:
            return _named(model.encode_text(list(negative)))
        return _named(model.empty_text())

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        return Conditioning(crossattn=Context(encoded.clip["text"], encoded.clip.get("pooled")))


def _named(context: Context) -> dict[str, Tensor]:
    named = {"text": context.tokens}
    return named if context.pooled is None else named | {"pooled": context.pooled}


def context_of(encoded: Encoded) -> Context:
    """The words of an encoded text."""
    return Context(encoded.clip["text"], encoded.clip.get("pooled"))


def text_of(context: Context, null: Context) -> Encoded:
    """Words as they are, one row each, and what is said where they are dropped."""
    return Encoded(clip=_named(context), null=_named(null))
