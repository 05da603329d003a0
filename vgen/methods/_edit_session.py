"""One clip under edit: what it holds, and runs of the denoiser forth and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vgen.attention.control import Control, Edit, Recorder, Reference
from vgen.attention.keys import FrameKeys
from vgen.attention.masks import MaskSpec, WordHeat, mask_of, mask_sites, union
from vgen.attention.processor import control_of
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Encoded
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Frames, FrameSchedule, Whole
from vgen.diffusion.guidance import Cfg, Guidance
from vgen.diffusion.inversion import NullEmbeddings, NullText, Trajectory, ddim_invert, null_text
from vgen.diffusion.moment import Direction
from vgen.diffusion.solvers import Denoiser, Solver, StepHooks, solve
from vgen.diffusion.step_window import StepWindow
from vgen.methods._sampling import Sampling
from vgen.methods._video_model import Course, Encodings, VideoModel
from vgen.methods._wishes import Wish, WishedWords

Progress = Callable[[str, int, int], None]
"""Phase, steps done, steps in all."""
TARGET = ("target",)
PAIR = ("source", "target")
"""Rows of a run of the edit alone, and of one in which the source is denoised beside it."""


@dataclass(frozen=True, slots=True)
class Acting:
    """What attention does in one run: the frames that self-attention reads (None: as assembled), the edits of
    what it sees, who records it, and what it reads of earlier runs."""

    keys: Sequence[FrameKeys] | None = None
    edits: Sequence[Edit] = ()
    recorders: Sequence[Recorder] = ()
    references: Mapping[str, Reference] | None = None


@dataclass(slots=True, kw_only=True)
class EditSession:
    """One clip under edit. ``latents`` 1 f c h w are those of the real clip, whose ``pixels`` are 1 f 3 H W
    in [-1, 1]; None: the source is generated from ``noise``. ``sampling`` says in how many steps and with how
    much guidance. ``fields`` are what else the clip has, 1 f ... each, as the pictures of a ControlNet.
    ``seed`` gives the noise of solvers that add some at every step, which belongs together over frames as the
    start noise of the method does.

    A long clip is seen in passes of the schedule ``frames`` at every step, forth and back, so that there is
    one latent and one trajectory for the whole of it; attention, and what it records, stays within a pass.
    ``seed`` is that of what a method draws beside ``noise``.
    """

    video_model: VideoModel
    wish: Wish
    noise: Tensor
    sampling: Sampling
    latents: Tensor | None = None
    pixels: Tensor | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    progress: Progress = lambda phase, done, total: None
    frames: FrameSchedule = field(default_factory=Whole)
    seed: int = 0

    @property
    def windows(self) -> list[Frames]:
        """The frames that the UNet sees together."""
        return [one.frames for one in self.frames.passes(self.num_frames)]

    @property
    def model(self) -> ImageModel:
        return self.video_model.model

    @property
    def control(self) -> Control:
        return control_of(self.video_model.unet)

    @property
    def num_frames(self) -> int:
        return self.noise.shape[1]

    @property
    def num_steps(self) -> int:
        return self.sampling.num_steps

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return self.noise.shape[-2], self.noise.shape[-1]

    def frame(self, i: int) -> EditSession:
        """The same for one frame alone, whose phases are told as its share of the clip's."""

        def told(phase: str, done: int, total: int) -> None:
            self.progress(phase, i * total + done, self.num_frames * total)

        own = slice(i, i + 1)
        latents = None if self.latents is None else self.latents[:, own]
        pixels = None if self.pixels is None else self.pixels[:, own]
        fields = {name: x[:, own] for name, x in self.fields.items()}
        noise = self.noise[:, own]
        return replace(self, latents=latents, pixels=pixels, noise=noise, fields=fields, progress=told)

    def fresh(self, step: int) -> Tensor:
        """New noise 1 f c h w for a step: a function of seed and step alone, and shared as the start is."""
        draws = Draws(0, [("clip", self.seed)])
        return self.video_model.start.noise(draws, self.noise, f"step{step}")

    @torch.no_grad()
    def encoded(self, *prompts: str, negative: str = "") -> dict[str, Encoded]:
        """What the conditions make of the clip, one row per prompt; the null of the text is the empty prompt,
        or ``negative``."""
        fields = {name: x.expand(len(prompts), *x.shape[1:]) for name, x in self.fields.items()}
        told = {"negative": [negative] * len(prompts)} if negative else {}
        # latents say how many pictures there must be, and of what size
        return self.video_model.encode({"caption": list(prompts), "latents": self.noise, **told, **fields})

    @property
    def words(self) -> WishedWords:
        """What becomes of each word of the wish."""
        return WishedWords(self.wish, self.model.tokenizer, self.num_steps)

    # -- denoising -------------------------------------------------------------------------------------------
    def denoiser(
        self,
        encoded: Callable[[int], Encodings],
        guidance: Guidance,
        *,
        branches: tuple[str, ...] = TARGET,
        direction: Direction = Direction.DENOISE,
        solver: Solver = Solver.DDIM,
        phase: str = "",
    ) -> Denoiser:
        """``(x r f c h w, t) -> (x_0, eps)`` that tells attention where the run stands. ``encoded(step)`` has
        one row per branch; a run without a ``phase`` reports no progress."""
        asked, num_steps = 0, self.num_steps

        def told() -> None:
            nonlocal asked
            asked += 1
            if phase:
                self.progress(phase, min(asked, num_steps), num_steps)

        course = Course(
            num_steps=num_steps,
            branches=branches,
            solver=solver,
            spacing=self.sampling.spacing,
            direction=direction,
            frames=self.frames,
        )
        return self.video_model.denoiser(encoded, guidance, course, told)

    def invert(
        self,
        prompt: str,
        recorders: Sequence[Recorder] = (),
        *,
        keys: Sequence[FrameKeys] | None = None,
        fixed_point_steps: int = 0,
        guidance: float = 1.0,
    ) -> Trajectory:
        """DDIM inversion of the real clip; attention reads the frames that it is told to read now, or
        ``keys``.

        With ``guidance`` other than 1 the empty prompt is asked too (MasaCtrl does, though with an empty
        prompt nothing comes of it); recorders want one row, and none.
        """
        if self.latents is None:
            raise ValueError("there is no clip to invert; give video=FILE")
        encoded, schedule = self.encoded(prompt), self.video_model.schedule
        ask = self.denoiser(
            lambda _: encoded, Cfg(scale=guidance), direction=Direction.INVERT, phase="invert"
        )
        with self.control.acting(keys=keys, recorders=recorders):
            return ddim_invert(
                ask,
                self.latents.float(),
                schedule,
                self.num_steps,
                self.sampling.spacing,
                fixed_point_steps=fixed_point_steps,
            )

    def sample(
        self,
        start: Tensor,
        encoded: Callable[[int], Encodings],
        guidance: Guidance,
        *,
        branches: tuple[str, ...] = TARGET,
        acting: Acting = Acting(),
        hooks: StepHooks = StepHooks(),  # noqa: B008  (frozen)
        first_step: int = 0,
        phase: str = "edit",
    ) -> Tensor:
        """From ``start`` (1 or r, f c h w) at ``first_step``; returns clean latents r f c h w."""
        solver, schedule = self.sampling.solver, self.video_model.schedule
        ask = self.denoiser(encoded, guidance, branches=branches, solver=solver, phase=phase)
        x = start.expand(len(branches), *start.shape[1:]).contiguous()
        with self.control.acting(
            keys=acting.keys,
            edits=acting.edits,
            recorders=acting.recorders,
            references=acting.references,
        ):
            return solve(
                ask,
                x,
                schedule,
                self.num_steps,
                solver,
                self.sampling.spacing,
                noise=self.fresh,
                hooks=hooks,
                first_step=first_step,
            )

    def reconstruct(self, start: Tensor, prompt: str, keys: Sequence[FrameKeys] | None = None) -> Tensor:
        """Forth again with the inversion's own settings: what no edit can be closer to the source than."""
        encoded = self.encoded(prompt)
        acting = Acting(keys=keys)
        return self.sample(start, lambda _: encoded, Cfg(scale=1.0), acting=acting, phase="reconstruct")

    # -- null-text and blending ----------------------------------------------------------------------------
    def null_text(
        self,
        prompt: str,
        trajectory: Trajectory,
        settings: NullText,
        keys: Sequence[FrameKeys] | None = None,
    ) -> NullEmbeddings:
        """One embedding per step that makes guided sampling follow the trajectory (Mokady et al. 2022,
        section 3.2); all frames of the session share it. Self-attention reads ``keys``; None: as it is told
        now."""
        guidance = self.sampling.guidance
        encoded, scale = self.encoded(prompt), Cfg(scale=guidance)
        if guidance == 1:  # the null embedding is not heard, so there is nothing to optimise
            settings = replace(settings, inner_steps=0)

        def predict(x: Tensor, t: int, tokens: Tensor, step: int) -> tuple[Tensor, Tensor]:
            given = speaking(encoded, tokens.to(self.video_model.dtype))
            return self.denoiser(lambda _: given, scale)(x, t)

        done = iter(range(1, self.num_steps + 1))

        def told() -> None:
            self.progress("null text", next(done), self.num_steps)

        start, schedule = encoded["text"].null["text"].float(), self.video_model.schedule
        with self.control.acting(keys=keys):
            return null_text(
                predict, trajectory, schedule, start, settings, self.sampling.spacing, on_step=told
            )

    def blending(self, settings: MaskSpec, window: StepWindow) -> Blending | None:
        """What lets a run of source and target differ only where the words to blend are; None without such
        words."""
        tokens = self.words.blend_tokens()
        if not tokens:
            return None
        sites = mask_sites(self.control.sites.values(), self.size, settings)
        heat = WordHeat(tokens, sites, self.size, self.num_frames)
        return Blending(heat, settings, self.size, window, self.num_steps)


@dataclass(slots=True)
class Blending:
    """The latent blend of a run whose rows are source and target (Hertz et al. 2022, section 3.2, local
    editing): after each step inside ``window``, outside the mask of the words, the target is the source. The
    mask is made of the attention seen so far, frame by frame."""

    heat: WordHeat
    settings: MaskSpec
    size: tuple[int, int]
    window: StepWindow
    num_steps: int

    def hooks(self) -> StepHooks:
        return StepHooks(after=(self._blend,))

    def mask(self) -> Tensor:
        """f h w bool: where any branch's words are."""
        found = [mask_of(self.heat.heat(branch), self.size, self.settings) for branch in self.heat.tokens]
        return union(found)

    def _blend(self, step: int, x: Tensor) -> Tensor:
        if not self.window.holds(step, self.num_steps):
            return x
        inside = self.mask()[:, None].to(x.device)
        return torch.where(inside, x, x[:1])


def speaking(encoded: Encodings, null: Tensor) -> dict[str, Encoded]:
    """The same, but for what is said where the text is dropped: ``null``, tokens of one row or one per
    branch."""
    text = encoded["text"]
    return {**encoded, "text": Encoded(text.clip, text.frames, {**text.null, "text": null})}
