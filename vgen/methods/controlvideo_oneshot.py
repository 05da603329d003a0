"""ControlVideo, one-shot: an image model and its ControlNet taught one clip, then asked for it in other words
along the same control pictures (Zhao et al. 2023).

Self-attention reads the key frame, the first one, in the UNet and in the ControlNet. Attention over frames
stands beside it with a copy of its weights and behind a zero convolution, but in the UNet's middle block and
in the ControlNet. The output projections of self-attention and the new branch learn. Editing starts from the
clip's DDIM inversion with its own prompt and the ControlNet on. Needs a ControlNet beneath, as
``stack.edges.file=FILE``. A long clip is drawn in windows together with a video of its key frames (version 2
of the paper, which has no code: the weights are ours).
"""

from __future__ import annotations

from typing import ClassVar

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.sites import Kind, Stage, after
from vgen.conditions.control_net import ControlNet
from vgen.conditions.text import Text
from vgen.diffusion.frames import FrameSchedule, Fused, Sliding, check_key_share
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.start import Iid, Shared, Start
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.layers.parallel_attention import ParallelAttentionSpec
from vgen.methods._edit_session import Acting, EditSession
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import UNET, Conditioned, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.methods.control_net import ControlNets, Shown
from vgen.spec import Choice, field, spec

STEPS = {Shown.EDGES: 80, Shown.SCRIBBLE: 300, Shown.DEPTH: 500, Shown.POSE: 1500}
"""Steps of tuning by what is shown: the released numbers of Canny, HED, depth and pose."""
OTHER_STEPS = 300


class StartsFrom(Choice):
    """What an edit starts from: the ``inversion`` of the clip, or ``noise`` that all frames share."""

    INVERSION = "inversion"
    NOISE = "noise"


@method(
    "controlvideo_oneshot",
    paper=Paper(
        "ControlVideo: Conditional Control for One-shot Text-driven Video Editing and Beyond",
        "2305.17098",
        2023,
    ),
    regime=Regime.CLIP,
)
@spec
class ControlVideoOneShot(Recipe, Editing):
    """``condition`` names the field and the ControlNet beneath. ``key_share`` is what the video of key frames
    weighs in a long clip's key frames. The released nets pool the norms of their residual blocks."""

    tuned: ClassVar[bool] = True
    training_by_knobs: ClassVar[bool] = True
    condition: Shown = Shown.EDGES
    temporal: ParallelAttentionSpec = field(default_factory=ParallelAttentionSpec)
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST])
    image_norm_scope: NormScope = NormScope.CLIP
    starts_from: StartsFrom = StartsFrom.INVERSION
    fixed_point_steps: int = 0
    key_share: float = 0.5

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)
        check_key_share(self.key_share)

    def stands_on(self) -> ControlNets:
        return ControlNets(condition=self.condition)

    def conditions(self) -> dict[str, Conditioned]:
        shown = ControlNet(reading=self.condition.value)
        return {"text": Conditioned(Text()), self.condition.value: Conditioned(shown)}

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.ATTN1, stages=[Stage.DOWN, Stage.UP]), self.temporal)]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {net: [FrameKeys(frames=self.frames)] for net in (UNET, self.condition.value)}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def beside_norms(self) -> NormScope:
        return self.image_norm_scope

    def learns(self) -> tuple[str, ...]:
        return (
            "unet.image_unet.*.attn1.to_out.*",
            "unet.inserted.*.attn_temp.*",
            "unet.inserted.*.conv_temp.*",
            f"{self.condition.value}.control_net.*.attn1.to_out.*",
        )

    def start(self) -> Start:
        return Shared() if self.starts_from is StartsFrom.NOISE else Iid()

    def frame_schedule(self, window: Sliding) -> FrameSchedule:
        return Fused(windows=window, key_share=self.key_share)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=8, num_steps=50, guidance=12.0)

    def training(self) -> Training:
        steps = STEPS.get(self.condition, OTHER_STEPS)
        return Training(lr=3e-5, weight_decay=1e-2, ema_decay=0.0, max_steps=steps)

    def edit(self, session: EditSession) -> Edited:
        start, back = session.noise, None
        if self.starts_from is StartsFrom.INVERSION:
            source = session.wish.source
            start = session.invert(source, fixed_point_steps=self.fixed_point_steps).start
            back = session.reconstruct(start, source)
        encoded, guidance = session.encoded(session.wish.target), Cfg(scale=session.sampling.guidance)
        acting = Acting(edits=session.words.amplified(StepWindow()))
        return Edited(session.sample(start, lambda _: encoded, guidance, acting=acting), back)
