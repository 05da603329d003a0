"""What editing methods share: a clip with its words, a denoiser that knows its step and rows, inversion, and
what comes out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vgen.attention.control import Control, MapEdit, QkSwap, Recorder
from vgen.attention.edits import Amplify
from vgen.attention.moment import Direction, Moment, Rows
from vgen.attention.processor import control_of
from vgen.attention.store import StoreSpec
from vgen.attention.words import Alignment, Words, align
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import Cfg, Guidance, check_scale
from vgen.diffusion.inversion import Trajectory, ddim_invert
from vgen.diffusion.schedule import to_sample_and_noise
from vgen.diffusion.solvers import Denoiser, Solver, StepHooks, solve, timesteps
from vgen.diffusion.step_window import StepWindow
from vgen.diffusion.windows import Sliding, in_windows, windows
from vgen.methods._objectives import Denoising
from vgen.methods._structure import Structure
from vgen.spec import Choice, spec
from vgen.spec import field as spec_field

Progress = Callable[[str, int, int], None]
"""Phase, steps done, steps in all."""
TARGET = Rows(("null", "text"), ("target",))
PAIR = Rows(("null", "text"), ("source", "target"))


def long_clips() -> Sliding:
    """The windows in which a long clip is edited where nobody says otherwise."""
    return Sliding(num_frames=24)


class Matching(Choice):
    """How words of source and target belong together: ``replace`` one by one, ``refine`` where some are new,
    ``auto`` by their number."""

    AUTO = "auto"
    REPLACE = "replace"
    REFINE = "refine"


@spec
class Wish:
    """What a person asks for: ``amplify`` multiplies the attention that a target word receives, ``blend``
    names words (of either prompt) whose place alone may change, ``cross_replace_steps`` gives target words
    another window in which they have the source's attention."""

    source: str = ""
    target: str = ""
    amplify: dict[str, float] = spec_field(default_factory=dict)
    blend: list[str] = spec_field(default_factory=list)
    cross_replace_steps: dict[str, StepWindow] = spec_field(default_factory=dict)
    matching: Matching = Matching.AUTO

    def __post_init__(self) -> None:
        bad = {
            word: factor for word, factor in self.amplify.items() if factor < 0 or not math.isfinite(factor)
        }
        if bad:
            raise ValueError(
                f"amplify needs factors of 0 or more, got {bad}; 1 changes nothing, 2 doubles the word's "
                "attention"
            )


@dataclass(slots=True)
class Edited:
    """Clean latents 1 f c h w of the edit and, where they came along, of the source as the same machinery
    gives it back; ``mask`` f h w bool is where the edit was allowed to act."""

    latents: Tensor
    reconstruction: Tensor | None = None
    mask: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class EditSession:
    """One clip under edit. ``latents`` 1 f c h w are those of the real clip; None: the source is generated
    from ``noise``.

    A clip longer than ``window`` is seen in overlapping windows of frames whose predictions are averaged at
    every step, forth and back, so that there is one latent and one trajectory for the whole of it; attention,
    and what it records, stays within a window. ``structure`` is a ControlNet that speaks at every evaluation,
    while inverting and while denoising.
    """

    model: ImageModel
    unet: VideoUNet
    objective: Denoising
    wish: Wish
    noise: Tensor
    latents: Tensor | None = None
    progress: Progress = lambda phase, done, total: None
    window: Sliding = field(default_factory=Sliding)
    structure: Structure | None = None

    def __post_init__(self) -> None:
        if self.structure is not None:
            self.structure.check(self.unet, self.noise)

    @property
    def windows(self) -> list[range]:
        """The frames that the UNet sees together."""
        return windows(self.num_frames, self.window)

    @property
    def control(self) -> Control:
        return control_of(self.unet)

    @property
    def num_frames(self) -> int:
        return self.noise.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in latent cells."""
        return self.noise.shape[-2], self.noise.shape[-1]

    def frame(self, i: int) -> EditSession:
        """The same for one frame alone, whose phases are told as its share of the clip's."""

        def told(phase: str, done: int, total: int) -> None:
            self.progress(phase, i * total + done, self.num_frames * total)

        latents = None if self.latents is None else self.latents[:, i : i + 1]
        structure = None if self.structure is None else self.structure.frame(i)
        return replace(
            self, latents=latents, noise=self.noise[:, i : i + 1], structure=structure, progress=told
        )

    def text(self, *prompts: str) -> Context:
        """One row per prompt, on the UNet's device and in its dtype."""
        weight = next(self.unet.image_unet.parameters())
        with torch.no_grad():
            return self.model.encode_text(list(prompts)).to(weight.device, weight.dtype)

    def alignment(self) -> Alignment:
        source, target, tokenizer = self.wish.source, self.wish.target, self.model.tokenizer
        same = len(source.split()) == len(target.split())
        replaces = self.wish.matching is Matching.REPLACE or (self.wish.matching is Matching.AUTO and same)
        return align(source, target, tokenizer, replaces)

    def amplified(self, window: StepWindow, words_own: dict[int, StepWindow] | None = None) -> list[Amplify]:
        """Edits for the words to amplify, inside ``window`` or the word's own; none where there are none."""
        words = Words.of(self.wish.target, self.model.tokenizer)
        factors = {
            p: factor
            for word, factor in self.wish.amplify.items()
            for p in words.positions(word, "target prompt")
        }
        return [Amplify(factors=factors, window=window, words=words_own or {})] if factors else []

    def cross_by_word(self, alignment: Alignment, num_steps: int) -> dict[int, StepWindow]:
        """Token positions with a window of their own (Hertz et al. 2022, section 3.2: a schedule per word).
        Raises ValueError for a word of the target that has no counterpart in the source: it keeps its own
        attention always."""
        out: dict[int, StepWindow] = {}
        for word, window in self.wish.cross_replace_steps.items():
            positions = alignment.target.positions(word, "target prompt")
            if not alignment.kept[positions].any():
                raise ValueError(
                    f"cross_replace_steps gives {word!r} the source's attention, but the source "
                    f"{self.wish.source!r} has no such word; "
                    "a new word keeps its own in every step, leave it out"
                )
            out |= dict.fromkeys(positions, window.of_rows(num_steps))
        return out

    def previews(
        self, num_steps: int, cross: StepWindow | None, amplify_in_all_steps: bool = True
    ) -> list[str]:
        """What will happen to which word, to be read before minutes are spent; ``cross`` is the window of
        words that have none of their own, None where the method leaves cross-attention alone; words are
        amplified in all steps or in their window. Raises
        ValueError for words that are nowhere or heeded by nobody."""
        alignment, wish = self.alignment(), self.wish
        ignored = [key for key in ("blend", "cross_replace_steps") if cross is None and getattr(wish, key)]
        if ignored:
            raise ValueError(
                "this method leaves the source's attention maps alone and can't heed "
                f"{' and '.join(ignored)}; "
                "leave it out, or edit with method=fatezero on the same adapter"
            )
        self.blend_tokens(), self.amplified(StepWindow()), self.cross_by_word(alignment, num_steps)
        lines = [alignment.preview()]
        if cross is not None:
            by_word = [
                f"{word} {_said(window.of_rows(num_steps), num_steps)}"
                for word, window in wish.cross_replace_steps.items()
            ]
            said = _said(cross.of_rows(num_steps), num_steps)
            lines.append(", ".join(["cross-attention of the source in steps " + said, *by_word]))
        lines += self._amplify_preview(num_steps, None if amplify_in_all_steps else cross)
        lines += [f"changes only where {', '.join(wish.blend)} is"] if wish.blend else []
        return lines

    def _amplify_preview(self, num_steps: int, window: StepWindow | None) -> list[str]:
        """``window`` None: in all steps. Raises ValueError for words amplified in no step."""
        said = []
        for word, factor in self.wish.amplify.items():
            acts = None if window is None else self.wish.cross_replace_steps.get(word, window)
            if acts is not None and not acts.of_rows(num_steps).steps(num_steps):
                raise ValueError(
                    f"amplify acts in the steps of cross-attention, of which {word!r} has none; raise "
                    "method.cross.end or give method.amplify_in_all_steps=true"
                )
            when = "" if acts is None else f" in steps {_said(acts.of_rows(num_steps), num_steps)}"
            said.append(f"{word} x{factor:g}{when}")
        return [f"amplifies {', '.join(said)}"] if said else []

    def blend_tokens(self) -> dict[str, list[int]]:
        """Token positions of the blend words in either prompt. Raises ValueError for a word that is in
        neither."""
        prompts = {
            "source": Words.of(self.wish.source, self.model.tokenizer),
            "target": Words.of(self.wish.target, self.model.tokenizer),
        }
        for word in self.wish.blend:
            if not any(words.find(word) for words in prompts.values()):
                raise ValueError(
                    f"blend word {word!r} is neither in the source {self.wish.source!r} nor in the target "
                    f"{self.wish.target!r}; "
                    "name a word of one of them"
                )
        out = {
            branch: [p for word in self.wish.blend for p in words.find(word)]
            for branch, words in prompts.items()
        }
        return {branch: tokens for branch, tokens in out.items() if tokens}

    # -- denoising -------------------------------------------------------------------------------------------
    def denoiser(
        self,
        rows: Rows,
        contexts: Callable[[int], Context],
        guidance: Guidance,
        num_steps: int,
        direction: Direction,
        phase: str,
    ) -> Denoiser:
        """``(x r f c h w, t) -> (x_0, eps)`` that tells attention where the run stands. ``contexts(step)``
        has one row per guidance x branch; a ``phase`` without name reports no progress."""
        step_of = {t: i for i, t in enumerate(timesteps(self.objective.schedule, num_steps, Solver.DDIM))}
        weight, control, schedule = (
            next(self.unet.image_unet.parameters()),
            self.control,
            self.objective.schedule,
        )
        asked = 0

        def ask(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            nonlocal asked
            i = step_of[t]

            def predict(part: Tensor, frames: range) -> Tensor:
                moment, context = Moment(i, num_steps, t, direction, rows, frames), contexts(i)
                control.enter(moment)
                batch = part.to(weight.dtype).repeat(len(rows.guidance), 1, 1, 1, 1)
                ts = torch.full((len(batch),), t, device=x.device)
                added = (
                    None if self.structure is None else self.structure.residuals(batch, ts, context, moment)
                )
                out = self.unet(batch, ts, context, added).float()
                return guidance.combine(rows.split(out))

            out = in_windows(predict, x, self.window)
            asked += 1
            if phase:
                self.progress(phase, min(asked, num_steps), num_steps)
            alpha, sigma = schedule.alpha_sigma(torch.tensor([t], device=x.device), x)
            return to_sample_and_noise(self.objective.prediction, out, x, alpha, sigma)

        return ask

    def invert(
        self,
        prompt: str,
        num_steps: int,
        recorders: Sequence[Recorder] = (),
        fixed_point_steps: int = 0,
        guidance: float = 1.0,
    ) -> Trajectory:
        """DDIM inversion of the real clip; attention reads the frames that it is told to read now. With
        ``guidance`` other than 1 the empty prompt is asked too (MasaCtrl does, though with an empty prompt
        nothing comes of it); recorders want one row, and none."""
        if self.latents is None:
            raise ValueError("there is no clip to invert; give video=FILE")
        guided = Cfg(scale=guidance)
        rows = Rows(guided.rows(), ("target",))
        context = self.text(*("" if name == "null" else prompt for name in rows.guidance))
        ask = self.denoiser(rows, lambda _: context, guided, num_steps, Direction.INVERT, "invert")
        with self.control.acting(recorders=recorders):
            return ddim_invert(
                ask,
                self.latents.float(),
                self.objective.schedule,
                num_steps,
                fixed_point_steps=fixed_point_steps,
            )

    def sample(
        self,
        start: Tensor,
        rows: Rows,
        contexts: Callable[[int], Context],
        guidance: Guidance,
        num_steps: int,
        *,
        edits: Sequence[MapEdit | QkSwap] = (),
        hooks: StepHooks = StepHooks(),  # noqa: B008  (frozen)
        phase: str = "edit",
    ) -> Tensor:
        """DDIM from ``start`` (1 or r, f c h w); returns clean latents r f c h w."""
        ask = self.denoiser(rows, contexts, guidance, num_steps, Direction.DENOISE, phase)
        x = start.expand(len(rows.branches), *start.shape[1:]).contiguous()
        with self.control.acting(edits=edits):
            return solve(ask, x, self.objective.schedule, num_steps, hooks=hooks)

    def reconstruct(self, start: Tensor, prompt: str, num_steps: int) -> Tensor:
        """Forth again with the inversion's own settings: what no edit can be closer to the source than."""
        context = self.text(prompt)
        rows = Rows(("text",), ("target",))
        return self.sample(start, rows, lambda _: context, Cfg(scale=1.0), num_steps, phase="reconstruct")


def _said(window: StepWindow, num_steps: int) -> str:
    steps = window.steps(num_steps)
    if not steps:
        return "none"
    return (f"{steps[0] + 1}-{steps[-1] + 1}" if len(steps) > 1 else f"{steps[0] + 1}") + f" of {num_steps}"


class Editing(ABC):
    """A recipe that edits clips in ``num_steps``; ``frame_by_frame`` where every frame is an image of its
    own."""

    __slots__ = ()
    frame_by_frame: ClassVar[bool] = False
    num_steps: int

    @abstractmethod
    def edit(self, session: EditSession) -> Edited: ...


def check_edit(num_steps: int, guidance: float, fixed_point_steps: int) -> None:
    """Refuses numbers of an edit that mean nothing, when a recipe is made: before any model is loaded."""
    check_scale(guidance)
    if num_steps < 1 or fixed_point_steps < 0:
        raise ValueError(
            "an edit needs num_steps of at least 1 and fixed_point_steps that is not negative, got "
            f"{num_steps} and {fixed_point_steps}; 50 and 0 are usual"
        )


class Recording(Editing):
    """Keeps attention of the inversion in ``store``."""

    __slots__ = ()
    store: StoreSpec

    @abstractmethod
    def store_bytes(self, session: EditSession) -> int:
        """What an edit will keep, by arithmetic alone."""


@torch.no_grad()
def encoded(model: ImageModel, video: np.ndarray, device: torch.device) -> Tensor:
    """uint8 f h w 3 to latents 1 f c h w."""
    pixels = torch.tensor(video, device=device).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    return model.encode(pixels).float()


def start_noise(
    model: ImageModel, num_frames: int, size: tuple[int, int], seed: int, device: torch.device
) -> Tensor:
    """``1 f c h w`` standard normal, a function of the seed alone."""
    like = torch.empty(1, num_frames, model.unet.config["in_channels"], *size, device=device)
    return Draws(0, [("clip", seed)]).normal("start", like)
