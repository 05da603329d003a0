"""Video-P2P: a tuned clip edited by the attention maps of its source (Liu et al. 2023).

Stage one is Tune-A-Video's, but that every frame reads the first one. The clip is inverted with its prompt by
the tuned net. Guidance is decoupled: the source's row has an optimised null embedding per step, shared by all
frames, the edit's row the plain one. Cross-attention and the maps of the inserted attention over frames are
handed on; what the released code calls self-attention are these. The fast mode optimises nothing and denoises
the source without guidance: ``null_text.inner_steps=0``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch

from vgen.attention.control import Edit
from vgen.attention.edits import CopySelf, Sibling, SwapCross
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.masks import MaskSpec
from vgen.attention.sites import AttentionKind
from vgen.backbones.sites import Kind, after
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullEmbeddings, NullText
from vgen.diffusion.solvers import StepHooks
from vgen.diffusion.step_window import StepWindow
from vgen.formats.foreign import Foreign
from vgen.formats.tune_a_video import TunedUNet
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.methods._edit_session import PAIR, Acting, EditSession, speaking
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import UNET, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.methods._video_model import Encodings
from vgen.spec import field, spec


@method(
    "video_p2p",
    paper=Paper("Video-P2P: Video Editing with Cross-attention Control", "2303.04761", 2023),
    regime=Regime.CLIP,
)
@spec
class VideoP2P(Recipe, Editing):
    """``cross`` and ``temporal_maps`` are the windows in which the source's maps are handed on; words are
    amplified inside ``cross``. Words to blend let the edit act where they are alone, frame by frame."""

    tuned: ClassVar[bool] = True
    formats: ClassVar[tuple[Foreign, ...]] = (TunedUNet(),)
    temporal: TemporalAttentionSpec = field(default_factory=TemporalAttentionSpec)
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST])
    image_norm_scope: NormScope = NormScope.CLIP
    cross: StepWindow = field(default_factory=lambda: StepWindow(end=0.2))
    temporal_maps: StepWindow = field(default_factory=lambda: StepWindow(end=0.5))
    blend: MaskSpec = field(default_factory=MaskSpec)
    blend_window: StepWindow = field(default_factory=lambda: StepWindow(start=0.2))
    null_text: NullText = field(default_factory=NullText)
    fixed_point_steps: int = 0

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), self.temporal)]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {UNET: [FrameKeys(frames=self.frames)]}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def learns(self) -> tuple[str, ...]:
        queries = ("unet.image_unet.*.attn1.to_q.weight", "unet.image_unet.*.attn2.to_q.weight")
        return (*queries, "unet.inserted.*.attn_temp.*")

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=3e-5, weight_decay=1e-2, ema_decay=0.0, max_steps=300)

    def cross_window(self, replaces: bool = True) -> StepWindow:
        return self.cross

    def amplifies_in(self, replaces: bool = True) -> StepWindow:
        return self.cross

    def edit(self, session: EditSession) -> Edited:
        source = session.wish.source
        trajectory = session.invert(source, fixed_point_steps=self.fixed_point_steps)
        nulls = session.null_text(source, trajectory, self.null_text) if self.null_text.inner_steps else None
        blending = session.blending(self.blend, self.blend_window)
        edits = self._edits(session)
        both = session.sample(
            trajectory.start,
            self._encoded(session, nulls),
            Cfg(scale=session.sampling.guidance, conditional_only=int(nulls is None)),
            branches=PAIR,
            acting=Acting(edits=edits if blending is None else [*edits, blending.heat]),
            hooks=StepHooks() if blending is None else blending.hooks(),
        )
        mask = None if blending is None else blending.mask()
        return Edited(both[1:], both[:1], mask, {"words": session.words.alignment().preview()})

    def _edits(self, session: EditSession) -> list[Edit]:
        alignment = session.words.alignment()
        window, words = self.cross.of_rows(session.num_steps), session.words.cross_by_word(alignment)
        return [
            SwapCross(source=Sibling(), window=window, words=words, alignment=alignment),
            CopySelf(source=Sibling(), window=self.temporal_maps, kind=AttentionKind.TEMPORAL),
            *session.words.amplified(window, words),
        ]

    def _encoded(self, session: EditSession, nulls: NullEmbeddings | None) -> Callable[[int], Encodings]:
        pair = session.encoded(session.wish.source, session.wish.target)
        if nulls is None:
            return lambda _: pair
        plain = pair["text"].null["text"]

        def at(step: int) -> Encodings:
            return speaking(pair, torch.cat([nulls.values[step].to(plain), plain]))

        return at
