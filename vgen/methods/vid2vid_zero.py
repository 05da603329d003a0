"""vid2vid-zero: a clip edited by an image model, with attention over all its frames (Wang et al. 2023).

The clip is inverted frame by frame with the empty prompt. Null embeddings, shared by all frames, are
optimised at every step and used in the second half. While editing, the first self-attention of each stage
reads every frame, the others the first and the previous one; the source's cross-attention is handed on. The
released code means to hand on self-attention too, and never does. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from vgen.attention.control import Edit
from vgen.attention.edits import Sibling, SwapCross
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.sites import AttentionWhere
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullEmbeddings, NullText
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.methods._edit_session import PAIR, Acting, EditSession, speaking
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.methods._video_model import Encodings
from vgen.spec import field, spec


@method(
    "vid2vid_zero",
    paper=Paper("Zero-Shot Video Editing Using Off-The-Shelf Image Diffusion Models", "2303.17599", 2023),
    regime=Regime.EDIT,
)
@spec
class Vid2VidZero(Recipe, Editing):
    """``dense`` are the self-attentions that read every frame. ``cross`` is the window of the source's
    cross-attention where words are swapped one by one, ``cross_refined`` where some are new. ``null_window``
    are the steps that use their null embedding. The released UNet pools the norms of its residual blocks over
    frames."""

    dense: AttentionWhere = field(default_factory=lambda: AttentionWhere(places=[0]))
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST, Frame.PREVIOUS])
    cross: StepWindow = field(default_factory=lambda: StepWindow(end=0.8))
    cross_refined: StepWindow = field(default_factory=lambda: StepWindow(end=0.4))
    null_text: NullText = field(default_factory=lambda: NullText(inner_steps=1))
    null_window: StepWindow = field(default_factory=lambda: StepWindow(start=0.5))
    image_norm_scope: NormScope = NormScope.CLIP
    inversion_prompt: str = ""
    fixed_point_steps: int = 0

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=7.5)

    def cross_window(self, replaces: bool = True) -> StepWindow:
        return self.cross if replaces else self.cross_refined

    def amplifies_in(self, replaces: bool = True) -> StepWindow:
        return self.cross_window(replaces)

    def blends(self) -> bool:
        return False

    def prompts(self) -> list[str]:
        return [self.inversion_prompt]

    def edit(self, session: EditSession) -> Edited:
        wish = session.wish
        trajectory = session.invert(self.inversion_prompt, keys=(), fixed_point_steps=self.fixed_point_steps)
        nulls = None
        if self.null_text.inner_steps:
            nulls = session.null_text(wish.source, trajectory, self.null_text, keys=())
        both = session.sample(
            trajectory.start,
            self._encoded(session, nulls),
            Cfg(scale=session.sampling.guidance),
            branches=PAIR,
            acting=Acting(keys=self._keys(), edits=self._edits(session)),
        )
        return Edited(both[1:], both[:1], None, {"words": session.words.alignment().preview()})

    def _keys(self) -> list[FrameKeys]:
        return [FrameKeys(frames=[Frame.ALL], where=self.dense), FrameKeys(frames=self.frames)]

    def _edits(self, session: EditSession) -> list[Edit]:
        alignment, words = session.words.alignment(), session.words.cross_by_word(session.words.alignment())
        window = self.cross_window(session.words.replaces).of_rows(session.num_steps)
        swap = SwapCross(source=Sibling(), window=window, words=words, alignment=alignment)
        return [swap, *session.words.amplified(window, words)]

    def _encoded(self, session: EditSession, nulls: NullEmbeddings | None) -> Callable[[int], Encodings]:
        pair = session.encoded(session.wish.source, session.wish.target)

        def at(step: int) -> Encodings:
            if nulls is None or not self.null_window.holds(step, session.num_steps):
                return pair
            return speaking(pair, nulls.values[step])

        return at
