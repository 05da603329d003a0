"""MasaCtrl: an image changed in pose or layout by its words, its content read from its source (Cao et al.
2023).

From an early step on, the edit's self-attention reads the keys and values of the source, which is denoised in
the row beside it. A source from disk is inverted with the empty prompt, as released. Words to blend give the
masked variant: foreground reads foreground alone. On a clip every frame has its own source, or all have the
first frame as theirs. Trains nothing. The released union variant raises; here it is what the paper means.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.mutual import Mutual
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import Trajectory
from vgen.diffusion.moment import Direction
from vgen.diffusion.solvers import StepHooks
from vgen.diffusion.step_window import StepWindow
from vgen.methods._edit_session import PAIR, Acting, EditSession
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import Paper, Recipe, Regime, method
from vgen.methods._sampling import Sampling
from vgen.spec import Choice, field, spec


class SourceFrame(Choice):
    """Whose content a frame of a clip reads: its own source frame's, or the first frame's."""

    OWN = "own"
    FIRST = "first"


@method(
    "masactrl",
    paper=Paper(
        "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and Editing",
        "2304.08465",
        2023,
    ),
    regime=Regime.EDIT,
)
@spec
class MasaCtrl(Recipe, Editing):
    """``mutual`` says where and when the source is read. ``inversion_prompt`` is what a clip is inverted with
    and what its row says; the masked variant says the source's prompt, whose words it needs. ``follow`` puts
    the source back on its inverted path before every step, which the authors call better and leave off."""

    frame_by_frame: ClassVar[bool] = True
    draws_source: ClassVar[bool] = True
    mutual: Mutual = field(default_factory=Mutual)
    source_frame: SourceFrame = SourceFrame.OWN
    inversion_prompt: str = ""
    inversion_guidance: float = 1.0
    follow: bool = False
    fixed_point_steps: int = 0

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=7.5)

    def blends(self) -> bool:
        return True

    def prompts(self) -> list[str]:
        return [self.inversion_prompt]

    def edit(self, session: EditSession) -> Edited:
        if not self.mutual.window.steps(session.num_steps):
            raise ValueError(
                f"mutual.window holds none of the {session.num_steps} steps: the source would not be read; "
                "lower method.mutual.window.start or raise sampling.num_steps"
            )
        wish, tokens = session.wish, session.words.blend_tokens()
        own_words = session.latents is None or bool(tokens)
        said = wish.source if own_words else self.inversion_prompt
        trajectory = self._inverted(session, said)
        encoded = session.encoded(said, wish.target)
        edits = [
            *self.mutual.edits(session.control.sites.values(), session.size, tokens),
            *session.words.amplified(StepWindow()),
        ]
        both = session.sample(
            session.noise if trajectory is None else trajectory.start,
            lambda _: encoded,
            Cfg(scale=session.sampling.guidance),
            branches=PAIR,
            acting=Acting(keys=self._keys(), edits=edits),
            hooks=self._hooks(trajectory),
        )
        return Edited(both[1:], both[:1])

    def _inverted(self, session: EditSession, said: str) -> Trajectory | None:
        if session.latents is None:
            return None
        return session.invert(
            said, guidance=self.inversion_guidance, fixed_point_steps=self.fixed_point_steps
        )

    def _keys(self) -> list[FrameKeys] | None:
        """The first frame's keys where the source is read, for all frames."""
        if self.source_frame is SourceFrame.OWN:
            return None
        mutual = self.mutual
        return [
            FrameKeys(
                frames=[Frame.FIRST],
                where=mutual.where,
                window=mutual.window,
                directions=[Direction.DENOISE],
            )
        ]

    def _hooks(self, trajectory: Trajectory | None) -> StepHooks:
        if trajectory is None or not self.follow:
            return StepHooks()

        def back(step: int, x: Tensor) -> Tensor:
            x = x.clone()
            x[:1] = trajectory.states[step]
            return x

        return StepHooks(before=(back,))
