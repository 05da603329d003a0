"""The denoiser: one for training, drawing, inverting and editing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vgen.attention.control import Control
from vgen.attention.processor import control_of
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.video_unet import Sidecar, VideoUNet
from vgen.conditions.condition import Condition, Encoded, Fields
from vgen.diffusion.frames import FrameSchedule, Pass, Role, Sliding, Whole, in_passes
from vgen.diffusion.guidance import NOTHING, TIME, Cfg, Dropped, Guidance
from vgen.diffusion.moment import Direction, Moment, Rows
from vgen.diffusion.schedule import Prediction, Schedule, to_sample_and_noise
from vgen.diffusion.solvers import Denoiser, Solver, Spacing, timesteps
from vgen.diffusion.start import Iid, Start

Encodings = Mapping[str, Encoded]
"""What each condition made of its fields, by the condition's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a denoising run goes: its grid of timesteps, its direction, and the frames that are seen together.

    ``branches`` names the rows of the run: clips, or a source beside its target.
    """

    num_steps: int
    branches: tuple[str, ...]
    solver: Solver = Solver.DDIM
    spacing: Spacing = Spacing.AUTO
    direction: Direction = Direction.DENOISE
    frames: FrameSchedule = field(default_factory=Whole)


def as_given(window: Sliding) -> FrameSchedule:
    """The windows themselves."""
    return window


def plain_guidance(scale: float) -> Guidance:
    """Classifier-free guidance by the text alone."""
    return Cfg(scale=scale)


@dataclass(slots=True, kw_only=True)
class VideoModel:
    """An image model with a method's layers in it, what the method listens to, and what its output means.

    ``modules`` are the nets beside the UNet, by the name of the condition that speaks through them.
    ``needed`` names the conditions whose fields a training must have. A method that needs no image model
    has one of no weights. ``start`` is what drawing starts from, ``guidance`` which branches are asked at a
    scale, ``frame_schedule`` how clips are seen where a person gives windows, ``keeps_first_frame`` whether
    the first frame is held at its latents."""

    model: ImageModel
    unet: VideoUNet
    modules: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    process: Callable[[], tuple[Schedule, Prediction]]
    start: Start = field(default_factory=Iid)
    keeps_first_frame: bool = False
    frame_schedule: Callable[[Sliding], FrameSchedule] = as_given
    guidance: Callable[[float], Guidance] = plain_guidance

    # -- facts -----------------------------------------------------------------------------------------------
    @property
    def schedule(self) -> Schedule:
        return self.process()[0]

    @property
    def prediction(self) -> Prediction:
        return self.process()[1]

    @property
    def device(self) -> torch.device:
        return self._first().device

    @property
    def dtype(self) -> torch.dtype:
        return self._first().dtype

    def _first(self) -> nn.Parameter:
        """A parameter that says where the model lies: the UNet's, or a module's where there is no UNet."""
        return next(p for net in (self.unet.image_unet, *self.modules.values()) for p in net.parameters())

    def components(self) -> dict[str, nn.Module]:
        """What can learn, by name: the video UNet in the image UNet's place, the other parts of the image
        model, and the nets beside them."""
        own: dict[str, nn.Module] = {**self.model.components(), "unet": self.unet}
        return own | dict(self.modules.items())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VideoModel:
        """All of it on a device and in a precision, in evaluation mode and without gradients."""
        self.model.to(device, dtype)
        for part in (self.unet, *self.modules.values()):
            kept = None if dtype is None else self.model.dtype_of(part, dtype)
            nn.Module.to(part, device, kept).eval().requires_grad_(False)  # diffusers' own warns of nothing
        return self

    def controls(self) -> list[Control]:
        """What steers attention in the UNet, and in the sidecars beside it."""
        return [control_of(net) for net in self.nets().values() if net.control is not None]

    def nets(self) -> dict[str, Sidecar]:
        """Those that layers are inserted into, by name."""
        beside = {name: net for name, net in self.modules.items() if isinstance(net, Sidecar)}
        return {"unet": self.unet, **beside}

    def eject(self) -> None:
        """Take every inserted layer out: the image model is as it came."""
        for net in self.nets().values():
            net.eject()

    def enable_gradient_checkpointing(self) -> None:
        """In every net that layers are inserted into."""
        for net in self.nets().values():
            net.enable_gradient_checkpointing()

    def enter(self, moment: Moment | None) -> None:
        """A step begins, for every attention; None: training."""
        for control in self.controls():
            control.enter(moment)

    # -- fields to what is said ------------------------------------------------------------------------------
    @torch.no_grad()
    def prepare(self, fields: Fields) -> dict[str, Any]:
        """The fields, and what the frozen encoders make of them: ``latents`` of ``video`` (uint8 b f 3 H
        W)."""
        out = dict(fields)
        if "latents" not in out and out.get("video") is not None:
            pixels = out["video"].to(self.device).float() / 127.5 - 1
            out["latents"] = self.model.encode(pixels).float()
        for condition in self.conditions.values():
            if all(name in out for name in condition.reads()):
                out |= condition.prepare(self.model, out).fields()
        return out

    def encode(self, fields: Fields) -> dict[str, Encoded]:
        """What each condition makes of its fields, on the UNet's device and in its precision. A condition
        whose fields are not there says nothing."""
        out = {}
        for name, condition in self.conditions.items():
            if self._reads(condition, fields):
                with torch.no_grad():
                    there = {**fields, **condition.prepare(self.model, fields).fields()}
                encoded = condition.encode(self.model, self._module(name), there)
                out[name] = encoded.to(self.device, self.dtype)
        return out

    def refuse_lacking(self, fields: Fields) -> None:
        """Raises ValueError where a condition that is needed would say nothing."""
        for name in self.needed:
            lacking = [reading for reading in self.conditions[name].reads() if reading not in fields]
            if lacking:
                raise ValueError(
                    f"the condition {name!r} reads {', '.join(lacking)}, and the clips have only "
                    f"{', '.join(sorted(fields))}; write the field into the shards, or make the condition "
                    "optional"
                )

    def hears_words(self) -> bool:
        """Whether a caption reaches the nets."""
        return any("caption" in condition.reads() for condition in self.conditions.values())

    def absent(self, present: Mapping[str, Tensor], num_rows: int) -> list[Dropped]:
        """The conditions that each clip can't hear, since it lacks a field of theirs."""
        out = [set[str]() for _ in range(num_rows)]
        for name, condition in self.conditions.items():
            for there in (present[reading] for reading in condition.reads() if reading in present):
                for row in (~there).nonzero()[:, 0].tolist():
                    out[row].add(name)
        return [frozenset(row) for row in out]

    def _reads(self, condition: Condition, fields: Fields) -> bool:
        return all(name in fields for name in condition.reads())

    def _module(self, name: str) -> nn.Module | None:
        return self.modules[name] if name in self.modules else None  # noqa: SIM401  (a ModuleDict has no get)

    # -- prediction ------------------------------------------------------------------------------------------
    def predict(
        self,
        encoded: Encodings,
        dropped: Sequence[Dropped],
        x: Tensor,
        t: Tensor,
        moment: Moment | None = None,
    ) -> Tensor:
        """The raw prediction, float32 b f c h w, for rows ``x`` b f c h w at ``t`` b, of which each drops
        what ``dropped`` says.

        Rows that drop ``time`` see their frames as stills; the conditions speak to them frame by frame, and
        layers that are ``OVER_TIME`` are left out.
        """
        alone = [TIME in row for row in dropped]
        if not any(alone):
            return self._asked(encoded, dropped, x, t, moment)
        out = torch.empty_like(x, dtype=torch.float32)
        for stills in (True, False):
            at = torch.tensor([a is stills for a in alone], device=x.device).nonzero()[:, 0]
            if len(at):
                part = {name: e.rows(at) for name, e in encoded.items()}
                drops = [dropped[i] for i in at.tolist()]
                out[at] = (
                    self._frames_apart(part, drops, x[at], t[at], moment)
                    if stills
                    else self._asked(part, drops, x[at], t[at], moment)
                )
        return out

    def _frames_apart(
        self, encoded: Encodings, dropped: Sequence[Dropped], x: Tensor, t: Tensor, moment: Moment | None
    ) -> Tensor:
        batch, num_frames = x.shape[:2]
        stills = {name: e.stills(num_frames) for name, e in encoded.items()}
        drops = [row - {TIME} for row in dropped for _ in range(num_frames)]
        alone, ts = x.flatten(0, 1)[:, None], t.repeat_interleave(num_frames)
        out = self._asked(stills, drops, alone, ts, moment, Conditioning(stills=True))
        return out[:, 0].unflatten(0, (batch, num_frames))

    def _asked(
        self,
        encoded: Encodings,
        dropped: Sequence[Dropped],
        x: Tensor,
        t: Tensor,
        moment: Moment | None,
        given: Conditioning | None = None,
    ) -> Tensor:
        x, given = x.to(self.dtype), given or Conditioning()
        for name, condition in self.conditions.items():
            if name in encoded:
                keep = torch.tensor([name not in row for row in dropped])
                mine = encoded[name].where(keep)
                said = condition.conditioning(self._module(name), mine, x, t, moment, given)
                given = given.joined(said)
        return self.unet(x, t, given).float()

    def predict_guided(
        self, encoded: Encodings, guidance: Guidance, x: Tensor, t: Tensor, moment: Moment | None = None
    ) -> Tensor:
        """Float32 r f c h w for ``x`` r f c h w: every branch of the guidance in one batch, combined."""
        branches = guidance.branches()
        times = len(branches)
        rows = {name: e.repeated(times * (len(x) if _single(e) else 1)) for name, e in encoded.items()}
        dropped = [branch.dropped for branch in branches for _ in range(len(x))]
        batch = x.repeat(times, 1, 1, 1, 1)
        out = self.predict(rows, dropped, batch, t.expand(len(x)).repeat(times), moment)
        return guidance.combine(out.unflatten(0, (times, len(x))))

    def denoiser(
        self,
        encoded: Callable[[int], Encodings],
        guidance: Guidance,
        course: Course,
        on_step: Callable[[], None] = lambda: None,
    ) -> Denoiser:
        """``(x r f c h w, t) -> (x_0, eps)`` that tells attention where the run stands.

        ``encoded(step)`` has one row, or one per branch of the course.
        """
        schedule, prediction = self.process()
        grid = timesteps(schedule, course.num_steps, course.solver, course.spacing)
        step_of = {t: i for i, t in enumerate(grid)}
        rows = Rows(guidance.rows(), course.branches)

        def ask(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            step = step_of[t]
            given = encoded(step)
            ts = torch.full((len(x),), t, device=x.device)

            def predict(part: Tensor, one: Pass) -> Tensor:
                moment = Moment(step, course.num_steps, t, course.direction, rows, one.frames, one.role)
                self.enter(moment)
                whole = one.role is Role.WHOLE
                seen = given if whole else {n: e.at(one.frames) for n, e in given.items()}
                return self.predict_guided(seen, guidance, part, ts, moment)

            out = in_passes(predict, x, course.frames)
            on_step()
            alpha, sigma = schedule.alpha_sigma(ts[:1], x)
            return to_sample_and_noise(prediction, out, x, alpha, sigma)

        return ask

    # -- pixels ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents b f c h w to pixels in [-1, 1], b f 3 H W: clip by clip where layers over frames stand in
        the decoder."""
        if "vae" not in self.modules:
            return self.model.decode(latents)
        decoder = self.modules["vae"]
        clips = self.model.unscaled(latents.to(self.model.vae.dtype)).split(1)
        return torch.cat([decoder(clip) for clip in clips]).clamp(-1, 1)


def whole(num_rows: int) -> list[Dropped]:
    """Rows that drop nothing."""
    return [NOTHING] * num_rows


def _single(encoded: Encoded) -> bool:
    """Whether one row serves all."""
    return all(len(x) == 1 for x in (*encoded.clip.values(), *encoded.frames.values()))
