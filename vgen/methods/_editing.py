"""What editing methods share: a clip with its words, runs of the denoiser forth and back, and what comes
out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vgen.attention.control import Control, Edit, Recorder, Reference
from vgen.attention.edits import Amplify
from vgen.attention.keys import FrameKeys
from vgen.attention.masks import MaskSpec, WordHeat, mask_of, mask_sites, union
from vgen.attention.processor import control_of
from vgen.attention.store import StoreSpec
from vgen.attention.words import Alignment, Words, align
from vgen.backbones.image_model import ImageModel
from vgen.conditions.condition import Encoded
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Frames, FrameSchedule, Sliding, Whole
from vgen.diffusion.guidance import Cfg, Guidance
from vgen.diffusion.inversion import NullEmbeddings, NullText, Trajectory, ddim_invert, null_text
from vgen.diffusion.moment import Direction
from vgen.diffusion.solvers import Denoiser, Solver, StepHooks, solve
from vgen.diffusion.start import Iid, Start
from vgen.diffusion.step_window import StepWindow
from vgen.methods._recipe import Recipe
from vgen.methods._sampling import Sampling
from vgen.methods._video_model import Course, Encodings, VideoModel
from vgen.spec import Choice, spec
from vgen.spec import field as spec_field

Progress = Callable[[str, int, int], None]
"""Phase, steps done, steps in all."""
TARGET = ("target",)
PAIR = ("source", "target")
"""Rows of a run of the edit alone, and of one in which the source is denoised beside it."""


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
    """What a person asks for: ``source`` and ``target`` in words, or an ``instruction`` that says what to do
    (for methods that were trained to follow one); ``amplify`` multiplies the attention that a target word
    receives, ``blend`` names words (of either prompt) whose place alone may change, ``cross_replace_steps``
    gives target words another window in which they have the source's attention."""

    source: str = ""
    target: str = ""
    instruction: str = ""
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
    gives it back; ``mask`` f h w bool is where the edit was allowed to act. ``frames`` are the numbers of
    those that the latents hold; None: all. ``pixels`` 1 f 3 H W in [-1, 1] are all frames where the edit ends
    in pixels."""

    latents: Tensor
    reconstruction: Tensor | None = None
    mask: Tensor | None = None
    report: dict[str, Any] = field(default_factory=dict)
    frames: Sequence[int] | None = None
    pixels: Tensor | None = None


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
    def replaces(self) -> bool:
        """Whether words of source and target belong together one by one."""
        if self.wish.matching is Matching.AUTO:
            return len(self.wish.source.split()) == len(self.wish.target.split())
        return self.wish.matching is Matching.REPLACE

    def alignment(self) -> Alignment:
        return align(self.wish.source, self.wish.target, self.model.tokenizer, self.replaces)

    def amplified(self, window: StepWindow, words_own: dict[int, StepWindow] | None = None) -> list[Amplify]:
        """Edits for the words to amplify, inside ``window`` or the word's own; none where there are none."""
        words = Words.of(self.wish.target, self.model.tokenizer)
        factors = {
            p: factor
            for word, factor in self.wish.amplify.items()
            for p in words.positions(word, "target prompt")
        }
        return [Amplify(factors=factors, window=window, words=words_own or {})] if factors else []

    def cross_by_word(self, alignment: Alignment) -> dict[int, StepWindow]:
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
            out |= dict.fromkeys(positions, window.of_rows(self.num_steps))
        return out

    def previews(
        self, cross: StepWindow | None, amplifies_in: StepWindow | None, blends: bool = True
    ) -> list[str]:
        """What will happen to which word, to be read before minutes are spent; ``cross`` is the window of
        words that have none of their own, None where the method leaves cross-attention alone; words are
        amplified in all steps or in their window. Raises
        ValueError for words that are nowhere or heeded by nobody."""
        alignment, wish = self.alignment(), self.wish
        heeded = {"blend": blends, "cross_replace_steps": cross is not None}
        ignored = [key for key, heeds in heeded.items() if getattr(wish, key) and not heeds]
        if ignored:
            alone = "leaves the source's attention maps alone and " if cross is None else ""
            raise ValueError(
                f"this method {alone}can't heed {' and '.join(ignored)}; "
                "leave it out, or edit with a method that heeds them on the same adapter"
            )
        self.blend_tokens(), self.amplified(StepWindow()), self.cross_by_word(alignment)
        lines = [alignment.preview()] if wish.source else []
        if cross is not None:
            by_word = [
                f"{word} {_said(window.of_rows(self.num_steps), self.num_steps)}"
                for word, window in wish.cross_replace_steps.items()
            ]
            said = _said(cross.of_rows(self.num_steps), self.num_steps)
            lines.append(", ".join(["cross-attention of the source in steps " + said, *by_word]))
        lines += self._amplify_preview(amplifies_in)
        place = f"changes only where {', '.join(wish.blend)} is"
        if cross is None:  # nothing is blended: its words part what is read
            place = f"foreground, which reads foreground alone, is where {', '.join(wish.blend)} is"
        lines += [place] if wish.blend else []
        return lines

    def _amplify_preview(self, window: StepWindow | None) -> list[str]:
        """``window`` None: in all steps. Raises ValueError for words amplified in no step."""
        said = []
        for word, factor in self.wish.amplify.items():
            acts = None if window is None else self.wish.cross_replace_steps.get(word, window)
            if acts is not None and not acts.of_rows(self.num_steps).steps(self.num_steps):
                raise ValueError(
                    f"amplify acts in the steps of cross-attention, of which {word!r} has none; raise "
                    "method.cross.end or give method.amplify_in_all_steps=true"
                )
            when = "" if acts is None else f" in steps {_said(acts.of_rows(self.num_steps), self.num_steps)}"
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
        tokens = self.blend_tokens()
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


def _said(window: StepWindow, num_steps: int) -> str:
    steps = window.steps(num_steps)
    if not steps:
        return "none"
    return (f"{steps[0] + 1}-{steps[-1] + 1}" if len(steps) > 1 else f"{steps[0] + 1}") + f" of {num_steps}"


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
