"""What a recipe that edits clips is, what comes of an edit, and what it begins from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vgen.attention.store import StoreSpec
from vgen.backbones.image_model import ImageModel
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.diffusion.start import Iid, Start
from vgen.diffusion.step_window import StepWindow
from vgen.methods._edit_session import EditSession
from vgen.methods._recipe import Recipe


def long_clips() -> Sliding:
    """The windows in which a long clip is edited where nobody says otherwise."""
    return Sliding(num_frames=24)


@dataclass(slots=True)
class Edited:
    """Clean latents 1 f c h w of the edit and, where they came along, of the source as the same machinery
    gives it back; ``mask`` f h w bool is where the edit was allowed to act. ``frames`` are the numbers of
    those that the latents hold; None: all. ``pixels`` 1 f 3 H W in [-1, 1] are all frames where the edit ends
    in pixels."""

    latents: Tensor
    reconstruction: Tensor | None = None
    mask: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)
    frames: Sequence[int] | None = None
    pixels: Tensor | None = None


class Editing(ABC):
    """A recipe that edits clips.

    ``frame_by_frame`` where every frame is an image of its own; ``tuned`` where it edits with a checkpoint of
    its own that was tuned on the clip; ``draws_source`` where it can draw the source from its prompt;
    ``sampled`` where numbers of sampling mean something to it; ``along_pictures`` where it draws along the
    pictures of a ControlNet, which it needs, and needs neither a clip nor words for one; ``instructed`` where
    it was trained to follow an instruction, and hears that in place of source and target; ``inverts`` where
    it goes back to noise by DDIM's rule.
    """

    __slots__ = ()
    frame_by_frame: ClassVar[bool] = False
    tuned: ClassVar[bool] = False
    draws_source: ClassVar[bool] = False
    sampled: ClassVar[bool] = True
    along_pictures: ClassVar[bool] = False
    needs_clip: ClassVar[bool] = False
    instructed: ClassVar[bool] = False
    inverts: ClassVar[bool] = True

    def cross_window(self, replaces: bool = True) -> StepWindow | None:
        """The steps in which the edit has the source's cross-attention, by whether words are replaced one by
        one; None: it leaves that alone."""
        return None

    def blends(self) -> bool:
        """Whether it heeds words to blend."""
        return self.cross_window() is not None

    def amplifies_in(self, replaces: bool = True) -> StepWindow | None:
        """The steps in which words are amplified, likewise; None: in all."""
        return None

    def prompts(self) -> list[str]:
        """What it says beside source and target."""
        return []

    @abstractmethod
    def edit(self, session: EditSession) -> Edited: ...


def check_fixed_point(steps: int) -> None:
    """Refuses a number of fixed-point steps that means nothing, when a recipe is made."""
    if steps < 0:
        raise ValueError(f"fixed_point_steps must not be negative, got {steps}; 0 is usual")


class Recording(Editing):
    """Keeps attention of the inversion in ``store``."""

    __slots__ = ()
    store: StoreSpec

    @abstractmethod
    def store_bytes(self, session: EditSession) -> int:
        """What an edit will keep, by arithmetic alone."""


def heard(recipe: Recipe, video: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """The field ``source`` 1 f 3 H W of a clip uint8 f h w 3, where the recipe reads it."""
    if "source" not in recipe.reads():
        return {}
    return {"source": torch.tensor(video, device=device).permute(0, 3, 1, 2)[None]}


def in_pixels(video: np.ndarray, device: torch.device) -> Tensor:
    """uint8 f h w 3 to 1 f 3 H W in [-1, 1]."""
    return torch.tensor(video, device=device).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


@torch.no_grad()
def encoded(model: ImageModel, video: np.ndarray, device: torch.device) -> Tensor:
    """uint8 f h w 3 to latents 1 f c h w."""
    return model.encode(in_pixels(video, device)).float()


@torch.no_grad()
def finished(model: ImageModel, done: Edited) -> Tensor:
    """What came of an edit, 1 f 3 H W in [-1, 1]."""
    return model.decode(done.latents) if done.pixels is None else done.pixels


def start_noise(
    model: ImageModel,
    num_frames: int,
    size: tuple[int, int],
    seed: int,
    device: torch.device,
    start: Start | None = None,
) -> Tensor:
    """``1 f c h w`` standard normal, a function of the seed alone; every frame its own without ``start``."""
    like = torch.empty(1, num_frames, model.latent_channels, *size, device=device)
    return (start or Iid()).noise(Draws(0, [("clip", seed)]), like)
