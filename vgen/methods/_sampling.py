"""From prompts to clips with an assembled model: start noise, guidance, solver, windows, decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.conditions.condition import WEIGHT, Encoded
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.diffusion.guidance import check_scale
from vgen.diffusion.solvers import Solver, Spacing, solve
from vgen.diffusion.step_window import StepWindow
from vgen.layers.motion_module import PositionalEncoding
from vgen.methods._video_model import Course, VideoModel
from vgen.spec import field, spec


@spec
class Loudness:
    """How loud a condition is while sampling: ``scale`` 1 is as trained, and it is heard in ``window``
    alone."""

    name: str = ""
    scale: float = 1.0
    window: StepWindow = field(default_factory=StepWindow)

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise ValueError(
                f"sampling.conditions.{self.name}.scale must be 0 or more, got {self.scale}; 1 is as trained"
            )

    def factor(self, step: int, num_steps: int) -> float:
        return self.scale if self.window.holds(step, num_steps) else 0.0


@spec
class Sampling:
    """How clips are drawn. ``conditions`` are those that are to be louder, softer or heard for a while.

    ``width_px`` and ``height_px`` 0 mean the model's own size; ``guidance`` 1 is the
    conditional model alone."""

    num_frames: int = 16
    num_steps: int = 25
    guidance: float = 7.5
    solver: Solver = Solver.DDIM
    spacing: Spacing = Spacing.AUTO
    width_px: int = 0
    height_px: int = 0
    window: Sliding = field(default_factory=Sliding)
    conditions: list[Loudness] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.num_steps < 1:
            raise ValueError(
                f"sampling needs num_frames and num_steps of at least 1, got {self.num_frames} and "
                f"{self.num_steps}"
            )
        check_scale(self.guidance)
        if self.width_px < 0 or self.height_px < 0:
            raise ValueError(
                f"width_px and height_px must not be negative, got {self.width_px} and {self.height_px}; 0 "
                "is the image model's own size"
            )

    def over(self, row: Sampling) -> Sampling:
        """Itself: numbers that are given whole override all of a method's own, as :class:`SamplingOverrides`
        does some of them."""
        return self


@spec
class SamplingOverrides:
    """What of a method's own :class:`Sampling` is to be otherwise; None: as the method says."""

    num_frames: int | None = None
    num_steps: int | None = None
    guidance: float | None = None
    solver: Solver | None = None
    spacing: Spacing | None = None
    width_px: int | None = None
    height_px: int | None = None
    window: Sliding = field(default_factory=Sliding)
    conditions: list[Loudness] | None = None

    def over(self, row: Sampling) -> Sampling:
        """``row`` with what is given here in its place. Raises ValueError as :class:`Sampling` does."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(row, **{name: value for name, value in given.items() if value is not None})

    def __post_init__(self) -> None:
        self.over(Sampling())


TRAINED = ("num_frames", "width_px", "height_px")
"""What of a :class:`Sampling` is by default as in training."""


def as_trained(row: Sampling, shown: Mapping[str, Any]) -> Sampling:
    """A method's own numbers with the frames and the size of ``shown``, which training saw."""
    return replace(row, **{name: shown[name] for name in TRAINED if name in shown})


@dataclass(frozen=True, slots=True)
class Prompt:
    """``seed`` belongs to the clip, so that it does not matter, but for rounding, in which batch it is
    drawn."""

    text: str
    seed: int = 0
    negative: str = ""


def latent_size(model: ImageModel, sampling: Sampling) -> tuple[int, int]:
    """Height and width in latent cells; raises ValueError where the UNet cannot halve them often enough."""
    factor, halvings = model.vae_factor, 2 ** (len(model.unet.config["block_out_channels"]) - 1)
    out = []
    for name, px in (("height_px", sampling.height_px), ("width_px", sampling.width_px)):
        px = px or model.size_px
        if px % (factor * halvings):
            raise ValueError(
                f"{name} must be a multiple of {factor * halvings} for this image model, got {px}"
            )
        out.append(px // factor)
    return out[0], out[1]


def refuse_impossible(video_model: VideoModel, sampling: Sampling, key: str = "sampling") -> None:
    """What would fail in the first step of drawing fails here: sizes that the UNet can't halve, more frames
    at once than position rows."""
    latent_size(video_model.model, sampling)
    rows = position_rows(video_model.unet)
    at_once = video_model.frame_schedule(sampling.window).at_once(sampling.num_frames)
    if rows is not None and at_once > rows:
        raise ValueError(
            f"{key}.num_frames={at_once} frames at once, but the motion module has {rows} position rows; "
            f"set {key}.window.num_frames={rows} to draw in sliding windows"
        )


def position_rows(unet: VideoUNet) -> int | None:
    """How many frames the inserted layers tell apart, None where they need no table."""
    return min(
        (m.pe.shape[1] for m in unet.inserted.modules() if isinstance(m, PositionalEncoding)), default=None
    )


def refuse_unscalable(encoded: Mapping[str, Encoded], sampling: Sampling) -> None:
    """Raises ValueError where a condition is to be louder that is not there, or that has no strength."""
    scalable = [name for name, one in encoded.items() if WEIGHT in one.clip]
    for one in sampling.conditions:
        if one.name not in scalable:
            raise ValueError(
                f"sampling.conditions names {one.name!r}; the conditions here that have a strength are "
                f"{', '.join(scalable) or 'none'}"
            )


def heard(encoded: Mapping[str, Encoded], sampling: Sampling, step: int) -> dict[str, Encoded]:
    """What the conditions say at a step, as loud as it is asked for."""
    out = dict(encoded)
    for one in sampling.conditions:
        out[one.name] = out[one.name].louder(one.factor(step, sampling.num_steps))
    return out


def generate(
    video_model: VideoModel,
    prompts: list[Prompt],
    sampling: Sampling,
    on_step: Callable[[], None] = lambda: None,
    more: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Clips in [-1, 1], ``b f 3 H W`` float32 on the CPU, one per prompt; ``more`` are what else the method
    listens to, one row per clip."""
    latents = draw_latents(video_model, prompts, sampling, on_step, more)
    return video_model.decode(latents).float().cpu()


@torch.no_grad()
def draw_latents(
    video_model: VideoModel,
    prompts: list[Prompt],
    sampling: Sampling,
    on_step: Callable[[], None] = lambda: None,
    more: Mapping[str, Tensor] | None = None,
    part: str = "clip",
) -> Tensor:
    """The same before they are decoded, ``b f c h w``; another ``part`` of a clip has other noise."""
    h, w = latent_size(video_model.model, sampling)
    draws = Draws(0, [(part, p.seed) for p in prompts])
    shape = (len(prompts), sampling.num_frames, video_model.model.latent_channels, h, w)
    like = torch.empty(shape, device=video_model.device)
    factor = video_model.model.vae_factor
    told = {
        "caption": [p.text for p in prompts],
        "negative": [p.negative for p in prompts],
        "canvas": (sampling.num_frames, factor * h, factor * w),
    }
    encoded = video_model.encode(video_model.prepare({**told, **(more or {})}))
    refuse_unscalable(encoded, sampling)
    course = Course(
        num_steps=sampling.num_steps,
        branches=tuple(f"clip{i}" for i in range(len(prompts))),
        solver=sampling.solver,
        spacing=sampling.spacing,
        frames=video_model.frame_schedule(sampling.window),
    )
    guidance = video_model.guidance(sampling.guidance)
    denoiser = video_model.denoiser(partial(heard, encoded, sampling), guidance, course, on_step)
    latents = solve(
        denoiser,
        video_model.start.noise(draws, like),
        video_model.schedule,
        sampling.num_steps,
        sampling.solver,
        sampling.spacing,
        noise=lambda i: draws.normal(f"step{i}", like),
    )
    video_model.enter(None)
    return latents
