"""Prompt-to-Prompt: an image edited by its words alone, through the attention maps of its source (Hertz et
al. 2022).

A real image is inverted first, and one null embedding per step is optimised (Mokady et al. 2022). On a clip
every frame is edited on its own, which is what video methods are measured against. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from vgen.attention.control import MapEdit, QkSwap
from vgen.attention.edits import CopySelf, Sibling, SwapCross
from vgen.attention.masks import MaskSpec
from vgen.attention.words import Alignment
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullEmbeddings, NullText, Trajectory
from vgen.diffusion.solvers import StepHooks
from vgen.diffusion.step_window import StepWindow
from vgen.methods._edit_session import PAIR, Acting, EditSession, speaking
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.methods._video_model import Encodings
from vgen.spec import field, spec

SELF_REAL, SELF_DRAWN = 32 * 32, 16 * 16
"""Up to how many tokens self maps are copied in the notebook for real images and in the other."""


@method(
    "prompt_to_prompt",
    paper=Paper("Prompt-to-Prompt Image Editing with Cross Attention Control", "2208.01626", 2022),
    regime=Regime.EDIT,
)
@spec
class PromptToPrompt(Recipe, Editing):
    """``cross`` and ``self_attention`` are the windows in which the source's maps are injected; self maps up
    to ``self_max_queries`` tokens, and without it as the two released notebooks: 1024 for a real clip, 256
    for a drawn source. ``null_text`` belongs to real images; with ``inner_steps`` 0 the source
    row is denoised without guidance instead (Video-P2P's fast mode). Words are amplified in the window of
    cross-attention, as released, or in all steps, as the paper's formula has it."""

    frame_by_frame: ClassVar[bool] = True
    draws_source: ClassVar[bool] = True
    cross: StepWindow = field(default_factory=lambda: StepWindow(end=0.8))
    self_attention: StepWindow = field(default_factory=lambda: StepWindow(end=0.4))
    self_max_queries: int | None = None
    blend: MaskSpec = field(default_factory=MaskSpec)
    blend_window: StepWindow = field(default_factory=lambda: StepWindow(start=0.2))
    null_text: NullText = field(default_factory=NullText)
    fixed_point_steps: int = 0
    amplify_in_all_steps: bool = False

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def cross_window(self, replaces: bool = True) -> StepWindow:
        return self.cross

    def amplifies_in(self, replaces: bool = True) -> StepWindow | None:
        return None if self.amplify_in_all_steps else self.cross

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=7.5)

    def edit(self, session: EditSession) -> Edited:
        parts = [self._image(session.frame(i)) for i in range(session.num_frames)]
        masks = [p.mask for p in parts if p.mask is not None]
        sources = [
            p.reconstruction for p in parts if p.reconstruction is not None
        ]  # every part's: the source is a row of its run
        return Edited(
            torch.cat([p.latents for p in parts], 1),
            torch.cat(sources, 1),
            torch.cat(masks) if masks else None,
            {"words": parts[0].report["words"]},
        )

    def _image(self, session: EditSession) -> Edited:
        start, nulls, wish = session.noise, None, session.wish
        if session.latents is not None:
            trajectory = session.invert(wish.source, fixed_point_steps=self.fixed_point_steps)
            start = trajectory.start
            nulls = self._nulls(session, trajectory) if self.null_text.inner_steps else None
        alignment = session.words.alignment()
        blending = session.blending(self.blend, self.blend_window)
        edits = self._edits(session, alignment)
        fast = session.latents is not None and nulls is None
        both = session.sample(
            start,
            self._encoded(session, nulls),
            Cfg(scale=session.sampling.guidance, conditional_only=int(fast)),
            branches=PAIR,
            acting=Acting(edits=edits if blending is None else [*edits, blending.heat]),
            hooks=StepHooks() if blending is None else blending.hooks(),
        )
        mask = None if blending is None else blending.mask()
        return Edited(both[1:], both[:1], mask, {"words": alignment.preview()})

    def _edits(self, session: EditSession, alignment: Alignment) -> list[MapEdit | QkSwap]:
        cross, words = self.cross.of_rows(session.num_steps), session.words.cross_by_word(alignment)
        most = self.self_max_queries
        if most is None:
            most = SELF_DRAWN if session.latents is None else SELF_REAL
        return [
            SwapCross(source=Sibling(), window=cross, words=words, alignment=alignment),
            CopySelf(source=Sibling(), window=self.self_attention, max_queries=most),
            *(
                session.words.amplified(StepWindow())
                if self.amplify_in_all_steps
                else session.words.amplified(cross, words)
            ),
        ]

    def _nulls(self, session: EditSession, trajectory: Trajectory) -> NullEmbeddings:
        return session.null_text(session.wish.source, trajectory, self.null_text)

    def _encoded(self, session: EditSession, nulls: NullEmbeddings | None) -> Callable[[int], Encodings]:
        pair = session.encoded(session.wish.source, session.wish.target)
        if nulls is None:
            return lambda _: pair
        return lambda step: speaking(pair, nulls.values[step])
