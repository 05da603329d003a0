"""What drawing starts from, and the noise that some solvers add at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from vgen.diffusion.draws import Draws
from vgen.spec import spec

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


class Start(ABC):
    """How the start noise of the frames of a clip belongs together. Each frame alone is standard normal."""

    __slots__ = ()

    @abstractmethod
    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        """Shape and device of ``like``, b f c h w; other numbers for another ``purpose``. ``fields`` are what
        the clips hear."""

    def reads(self) -> tuple[str, ...]:
        """Fields that the noise hangs on where they are there."""
        return ()

    def begin(self, noise: Tensor, alpha: float, sigma: float, fields: Mapping[str, Any]) -> Tensor:
        """The latents at the first step, whose level is ``alpha`` and ``sigma``, from their noise and what
        the clips hear: the noise itself."""
        return noise


@spec
class Iid(Start):
    """Every frame has noise of its own."""

    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        return draws.normal(purpose, like)


@spec
class Shared(Start):
    """All frames have the noise that :class:`Iid` gives the first one."""

    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        return draws.normal(purpose, like[:, :1]).expand_as(like).clone()


@spec
class NoisedPicture(Start):
    """A picture's latents, noised to the level of the first step, with one noise for all frames (DreamPose,
    Karras et al. 2023, section 4.4). ``reading`` is the field that holds them, b c h w."""

    reading: str = "reference_latents"

    def noise(
        self, draws: Draws, like: Tensor, purpose: str = "start", fields: Mapping[str, Any] = NO_FIELDS
    ) -> Tensor:
        return Shared().noise(draws, like, purpose)

    def begin(self, noise: Tensor, alpha: float, sigma: float, fields: Mapping[str, Any]) -> Tensor:
        if self.reading not in fields:
            raise ValueError(
                f"drawing starts from {self.reading}, and the clips have only {', '.join(sorted(fields))}; "
                "give the picture that they are made of"
            )
        latents = fields[self.reading].to(noise)
        if latents.shape[1:] != noise.shape[2:]:
            cells, wanted = (" x ".join(map(str, x.shape[-2:])) for x in (latents, noise))
            raise ValueError(
                f"{self.reading} has {cells} cells where {wanted} are drawn; give the picture's size as "
                "sampling.height_px and sampling.width_px, or train with method.reference.height_px and "
                ".width_px as large as the clips"
            )
        return alpha * latents[:, None] + sigma * noise
