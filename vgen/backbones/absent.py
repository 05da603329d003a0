"""What stands in an image model's place for methods that need none: no weights, no words, and pixels that are
their own latents."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import nn

from vgen.backbones.image_model import ImageModel

NO_IMAGE_MODEL = "none"
"""How cards name it."""
SIZE_PX = 256
"""The side of clips where nobody says another."""


class Nothing(nn.Module):
    """A net without parameters. ``config`` says one resolution, so that any size of clip fits."""

    config: ClassVar[dict[str, Any]] = {
        "block_out_channels": (1,),
        "sample_size": SIZE_PX,
        "out_channels": 3,
        "addition_embed_type": None,
        "force_upcast": False,
    }

    def enable_gradient_checkpointing(self, *_: Any) -> None:
        """Nothing: there is nothing to recompute."""


def no_image_model() -> ImageModel:
    """An image model of no parts: nothing of it learns, is written or is asked."""
    nothing = cast(Any, Nothing())
    return ImageModel(
        unet=nothing,
        vae=nothing,
        text_encoders=[],
        tokenizer=cast(Any, None),
        scheduler_config={},
        source=NO_IMAGE_MODEL,
    )
