"""Prompt-to-Prompt: an image edited by its words alone, through the attention maps of its source (Hertz et
al. 2022).

A real image is inverted first, and one null embedding per step is optimised (Mokady et al. 2022). On a clip
every frame is edited on its own, which is what video methods are measured against. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from vgen.attention.control import MapEdit, QkSwap
from vgen.attention.edits import CopySelf, Sibling, SwapCross
from vgen.attention.masks import MaskSpec, WordHeat, mask_of, mask_sites, union
from vgen.attention.moment import Direction, Rows
from vgen.attention.words import Alignment
from vgen.backbones.image_model import Context, ImageModel
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullEmbeddings, NullText, Trajectory, null_text
from vgen.diffusion.solvers import StepHooks
from vgen.diffusion.step_window import StepWindow
from vgen.methods._editing import PAIR, Edited, Editing, EditSession, check_edit
from vgen.methods._objectives import Denoising, denoising_as_trained
from vgen.methods._recipe import Paper, Recipe, Regime, method
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
    num_steps: int = 50
    guidance: float = 7.5
    cross: StepWindow = field(default_factory=lambda: StepWindow(end=0.8))
    self_attention: StepWindow = field(default_factory=lambda: StepWindow(end=0.4))
    self_max_queries: int | None = None
    blend: MaskSpec = field(default_factory=MaskSpec)
    blend_window: StepWindow = field(default_factory=lambda: StepWindow(start=0.2))
    null_text: NullText = field(default_factory=NullText)
    fixed_point_steps: int = 0
    amplify_in_all_steps: bool = False

    def __post_init__(self) -> None:
        check_edit(self.num_steps, self.guidance, self.fixed_point_steps)

    def objective(self, model: ImageModel) -> Denoising:
        return denoising_as_trained(model)

    def learns(self) -> tuple[str, ...]:
        return ()

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
        start, nulls = session.noise, None
        if session.latents is not None:
            trajectory = session.invert(
                session.wish.source, self.num_steps, fixed_point_steps=self.fixed_point_steps
            )
            start = trajectory.start
            nulls = self._nulls(session, trajectory) if self.null_text.inner_steps else None
        alignment = session.alignment()
        edits = self._edits(session, alignment)
        heat, hooks = self._blending(session)
        fast = session.latents is not None and nulls is None
        both = session.sample(
            start,
            PAIR,
            self._contexts(session, nulls),
            Cfg(scale=self.guidance, conditional_only=int(fast)),
            self.num_steps,
            edits=[*edits, *heat],
            hooks=hooks,
        )
        mask = self._mask(heat[0], session) if heat else None
        return Edited(both[1:], both[:1], mask, {"words": alignment.preview()})

    def _edits(self, session: EditSession, alignment: Alignment) -> list[MapEdit | QkSwap]:
        cross, words = self.cross.of_rows(self.num_steps), session.cross_by_word(alignment, self.num_steps)
        most = self.self_max_queries
        if most is None:
            most = SELF_DRAWN if session.latents is None else SELF_REAL
        return [
            SwapCross(source=Sibling(), window=cross, words=words, alignment=alignment),
            CopySelf(source=Sibling(), window=self.self_attention, max_queries=most),
            *(
                session.amplified(StepWindow())
                if self.amplify_in_all_steps
                else session.amplified(cross, words)
            ),
        ]

    def _contexts(self, session: EditSession, nulls: NullEmbeddings | None) -> Callable[[int], Context]:
        null, source, target = (session.text(p) for p in ("", session.wish.source, session.wish.target))

        def at(step: int) -> Context:
            u = null if nulls is None else Context(nulls.values[step].to(null.tokens), null.pooled)
            return Context.cat([u, u, source, target])

        return at

    def _nulls(self, session: EditSession, trajectory: Trajectory) -> NullEmbeddings:
        null, source = session.text(""), session.text(session.wish.source)
        rows, guidance = Rows(("null", "text"), ("target",)), Cfg(scale=self.guidance)

        def predict(x: Tensor, t: int, tokens: Tensor, step: int) -> tuple[Tensor, Tensor]:
            context = Context.cat([Context(tokens.to(null.tokens.dtype), null.pooled), source])
            return session.denoiser(rows, lambda _: context, guidance, self.num_steps, Direction.DENOISE, "")(
                x, t
            )

        done = iter(range(1, self.num_steps + 1))

        def told() -> None:
            session.progress("null text", next(done), self.num_steps)

        return null_text(
            predict, trajectory, session.objective.schedule, null.tokens.float(), self.null_text, on_step=told
        )

    def _blending(self, session: EditSession) -> tuple[list[WordHeat], StepHooks]:
        tokens = session.blend_tokens()
        if not tokens:
            return [], StepHooks()
        sites = mask_sites(session.control.sites.values(), session.size, self.blend)
        heat = WordHeat(tokens, sites, session.size, 1)

        def blend(step: int, x: Tensor) -> Tensor:
            if not self.blend_window.holds(step, self.num_steps):
                return x
            return torch.where(self._mask(heat, session)[:, None].to(x.device), x, x[:1])

        return [heat], StepHooks(after=(blend,))

    def _mask(self, heat: WordHeat, session: EditSession) -> Tensor:
        return union([mask_of(heat.heat(branch), session.size, self.blend) for branch in heat.tokens])
