"""From prompts to clips with an assembled model: start noise, guidance, solver, windows, decoding."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.conditions.condition import WEIGHT, Encoded
from vgen.conditions.first_frame import FIRST
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import FrameSchedule, Sliding, Whole
from vgen.diffusion.guidance import check_scale
from vgen.diffusion.solvers import Solver, Spacing, StepHooks, levels, solve, timesteps
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
    if video_model.keeps_first_frame and sampling.window.num_frames == 1:
        raise ValueError(
            f"{key}.window.num_frames=1 leaves no frame to draw after the one that is given; set it to 2 or "
            "more"
        )
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
    fields = video_model.prepare({**told, **(more or {})})
    encoded = video_model.encode(fields)
    refuse_unscalable(encoded, sampling)
    drawing = _Drawing(video_model, sampling, draws, on_step)
    start = _start(video_model, sampling, draws, like, fields)
    if video_model.keeps_first_frame:
        latents = drawing.from_first_frame(encoded, start, fields.get(FIRST))
    else:
        latents = drawing.solved(encoded, start, video_model.frame_schedule(sampling.window))
    video_model.enter(None)
    return latents


def num_steps(video_model: VideoModel, sampling: Sampling, fields: Collection[str] = ()) -> int:
    """How often ``on_step`` of :func:`generate` is called, given the names of what else is heard."""
    if not video_model.keeps_first_frame:
        return sampling.num_steps
    alone = "reference" not in fields
    return sampling.num_steps * (alone + len(_pieces(sampling)))


def _pieces(sampling: Sampling) -> list[range]:
    """The frames of each piece of a clip, of which every first frame but that of the clip is the last one of
    the piece before."""
    size = max(2, sampling.window.num_frames or sampling.num_frames)
    starts = range(0, sampling.num_frames - 1, size - 1)
    return [range(start, min(start + size, sampling.num_frames)) for start in starts]


def _start(
    video_model: VideoModel, sampling: Sampling, draws: Draws, like: Tensor, fields: Mapping[str, Any]
) -> Tensor:
    """The latents at the first step."""
    schedule, start = video_model.schedule, video_model.start
    ts = timesteps(schedule, sampling.num_steps, sampling.solver, sampling.spacing)
    level = levels(schedule, ts[:1], sampling.solver)[0]
    noise = start.noise(draws, like, fields=fields)
    return start.begin(noise, level.alpha, level.sigma, fields)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What all pieces of a drawing have in common."""

    video_model: VideoModel
    sampling: Sampling
    draws: Draws
    on_step: Callable[[], None]

    def solved(
        self,
        encoded: Mapping[str, Encoded],
        start: Tensor,
        frames: FrameSchedule,
        first: Tensor | None = None,
        purpose: str = "step",
    ) -> Tensor:
        """Latents b f c h w from those at the first step; ``first`` b 1 c h w is held in the first frame's
        place."""
        model, sampling = self.video_model, self.sampling
        course = Course(
            num_steps=sampling.num_steps,
            branches=tuple(f"clip{i}" for i in range(len(start))),
            solver=sampling.solver,
            spacing=sampling.spacing,
            frames=frames,
        )
        guidance = model.guidance(sampling.guidance)
        said = partial(heard, encoded, sampling)
        held = () if first is None else (lambda _, x: torch.cat([first, x[:, 1:]], 1),)
        return solve(
            model.denoiser(said, guidance, course, self.on_step),
            start,
            model.schedule,
            sampling.num_steps,
            sampling.solver,
            sampling.spacing,
            noise=lambda i: self.draws.normal(f"{purpose}{i}", start),
            hooks=StepHooks(before=held),
        )

    def from_first_frame(self, encoded: Mapping[str, Encoded], start: Tensor, first: Tensor | None) -> Tensor:
        """Piece by piece, each from the last frame of the one before; without ``first`` b 1 c h w a frame is
        drawn alone."""
        if first is None:
            one = {name: e.at(range(1)) for name, e in encoded.items()}
            first = self.solved(one, start[:, :1], Whole(), purpose="first")
        out = [first.to(start)]
        for piece in _pieces(self.sampling):
            part = {name: e.at(piece) for name, e in encoded.items()}
            begin = start[:, piece.start : piece.stop]
            purpose = f"step{piece.start}-" if piece.start else "step"
            drawn = self.solved(part, begin, Whole(), out[-1][:, -1:], purpose)
            out.append(drawn[:, 1:])
        return torch.cat(out, 1)
