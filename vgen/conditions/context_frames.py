"""Frames of a clip that are given, of which the others are drawn (Blattmann et al. 2023, Align your Latents,
sections 3.2 and 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.draws import Draws
from vgen.diffusion.moment import Moment
from vgen.shapes import fold, unfold
from vgen.spec import Choice, spec

GIVEN, CLEAN = "given_frames", "context_latents"
"""Fields: which frames are given (b f, bool), and scaled latents b f c h w that are right in those frames.

Without the second one the clip's own latents are taken.
"""
FEWEST = 2


class WhichFrames(Choice):
    """Which frames of a clip are given: ``none``, the ``first`` ones, ``every`` one of so many, with both
    ends."""

    NONE = "none"
    FIRST = "first"
    EVERY = "every"


@spec
class GivenFrames:
    """``most``: of the first frames between one and so many are given, drawn for every training clip.
    ``factor``: every so-manieth frame is given, from the first to the last."""

    which: WhichFrames = WhichFrames.NONE
    most: int = 2
    factor: int = 4

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"context.most must be at least 1 frame, got {self.most}; the paper's is 2")
        if self.factor < FEWEST:
            raise ValueError(
                f"context.factor must be at least {FEWEST}, got {self.factor}; the paper's is 4: three "
                "frames between two"
            )

    def refuse_unfit(self, num_frames: int) -> None:
        """Raises ValueError where a clip of ``num_frames`` leaves nothing to draw, or has no frame at its
        end."""
        if self.which is WhichFrames.FIRST and self.most >= num_frames:
            raise ValueError(
                f"context.most={self.most} frames are given of clips of {num_frames}, which leaves none "
                "to draw; "
                f"set method.context.most={max(1, num_frames - 1)} or lower, or take longer clips"
            )
        if self.which is WhichFrames.EVERY and (num_frames == 1 or (num_frames - 1) % self.factor):
            whole = max(1, (num_frames - 1) // self.factor) * self.factor + 1
            raise ValueError(
                f"context.factor={self.factor} does not divide the {num_frames - 1} steps between the "
                "first and "
                f"the last of {num_frames} frames; take clips of {whole} frames, or another factor"
            )

    def mask(self, num_frames: int, how_many: Tensor) -> Tensor:
        """Which frames are given, b f, bool; ``how_many`` b counts where the first ones are.

        Raises ValueError as :meth:`refuse_unfit` does.
        """
        self.refuse_unfit(num_frames)
        numbers = torch.arange(num_frames, device=how_many.device)
        match self.which:
            case WhichFrames.NONE:
                return torch.zeros(len(how_many), num_frames, dtype=torch.bool, device=how_many.device)
            case WhichFrames.FIRST:
                return numbers < how_many[:, None]
            case WhichFrames.EVERY:
                return (numbers % self.factor == 0).expand(len(how_many), -1)

    def drawn(self, draws: Draws, latents: Tensor) -> Tensor:
        """The same for training clips with ``latents`` b f c h w."""
        how_many = draws.integers("context_frames", self.most, latents.device) + 1
        return self.mask(latents.shape[1], how_many)


@spec
class ContextFrames(Condition):
    """Says the given frames' latents and which they are, as feature maps of the name ``reading``.

    It reads no field of a sample: training draws which frames are given, and a person hands over theirs. A
    row that drops it is told that none is given.
    """

    reading: str = "context"

    def reads(self) -> tuple[str, ...]:
        return ()

    def encode(self, model: ImageModel, module: nn.Module | None, fields: Fields) -> Encoded:
        assert module is not None  # the wiring's
        first = next(module.parameters())
        told = shown(model, fields).to(first)
        maps = module(fold(told))
        null = module(torch.zeros_like(told[0, :1]))
        frames = {str(level): unfold(x, told.shape[1]) for level, x in enumerate(maps)}
        return Encoded(frames=frames, null={str(level): x[None] for level, x in enumerate(null)})

    def conditioning(
        self,
        module: nn.Module | None,
        encoded: Encoded,
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        so_far: Conditioning,
    ) -> Conditioning:
        levels = [encoded.frames[str(level)] for level in range(len(encoded.frames))]
        maps = tuple(fold(level.to(x.dtype).expand(len(x), *level.shape[1:])) for level in levels)
        return Conditioning(features={self.reading: maps})


def shown(model: ImageModel, fields: Fields) -> Tensor:
    """Latents where they are given and zero elsewhere, with the mask behind them: b f c+1 h w."""
    clean = fields.get(CLEAN, fields.get("latents"))
    given = fields.get(GIVEN)
    if clean is None or given is None:
        frames, height, width = _canvas(model, fields, clean)
        return torch.zeros(_rows(fields, clean), frames, model.latent_channels + 1, height, width)
    if tuple(given.shape) != tuple(clean.shape[:2]):
        raise ValueError(
            f"{GIVEN} says of {tuple(given.shape)} clips and frames whether they are given, and there are "
            f"latents of {tuple(clean.shape[:2])}; give one truth for every frame"
        )
    mask = given.to(clean)[:, :, None, None, None]
    return torch.cat([mask * clean, mask.expand(-1, -1, 1, *clean.shape[-2:])], 2)


def _canvas(model: ImageModel, fields: Fields, clean: Tensor | None) -> tuple[int, int, int]:
    """Frames, height and width in latent cells of the clips at hand."""
    if clean is not None:
        return clean.shape[1], clean.shape[3], clean.shape[4]
    frames, height, width = fields["canvas"]
    return frames, height // model.vae_factor, width // model.vae_factor


def _rows(fields: Fields, clean: Tensor | None) -> int:
    return len(fields["caption"]) if clean is None else len(clean)
