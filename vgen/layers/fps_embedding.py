"""The frame rate of a clip, told beside diffusion time (Singer et al. 2022, Make-A-Video, section 3.3)."""

from __future__ import annotations

from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.sites import Kind, Site
from vgen.layers.insertion import Inserted, LayerSpec
from vgen.spec import spec


class FpsEmbedding(Inserted):
    """Adds a net's view of the context's ``vector`` of the name ``reading`` (b) to the embedding of time,
    ``(b f) d``; nothing where there is none. A new one is silent: its last projection is zero."""

    def __init__(self, reading: str, width: int, channels: int, context: ForwardContext) -> None:
        super().__init__(context)
        self.reading = reading
        self.proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedding = TimestepEmbedding(width, channels)
        for p in self.silent_outputs():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        rates = self.context.conditioning.vector.get(self.reading)
        if rates is None:
            return self.untouched(x)
        told = self.embedding(self.proj(rates).to(x.dtype))  # b d
        return x + told.repeat_interleave(self.context.frames(), 0)

    def silent_outputs(self) -> list[nn.Parameter]:
        return list(self.embedding.linear_2.parameters())


@spec
class FpsEmbeddingSpec(LayerSpec):
    """``width``: sinusoids of the frame rate."""

    reading: str = "fps"
    width: int = 256

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise ValueError(
                f"an embedding of the frame rate has an even number of sinusoids, got width={self.width}; "
                "256 is "
                "usual"
            )

    def build(self, site: Site, module: nn.Module, context: ForwardContext) -> FpsEmbedding:
        """Raises ValueError at a site that is no embedding of diffusion time."""
        if site.kind is not Kind.TIME_EMBEDDING:
            raise ValueError(
                f"the frame rate is told beside diffusion time, got {site.kind.value} at {site.path}; "
                "insert it at "
                "the site of kind time_embedding"
            )
        return FpsEmbedding(self.reading, self.width, site.channels, context)
