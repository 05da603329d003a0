"""Tune-A-Video: an image model taught one clip, then asked for it in other words (Wu et al. 2022).

Self-attention reads the first and the previous frame; temporal attention stands behind every feed-forward.
Query projections and the temporal layers learn from one clip for 500 steps of 3e-5; editing starts from the
clip's DDIM inversion with the empty prompt. Differs from the released code in what is said to be the intent:
the output bias is zero too, so that the layer is born silent, and gradient checkpointing trains the down
blocks (the released one leaves 42 of 112 tensors without gradient). ``image_norm_scope: clip`` pools the
image UNet's GroupNorms over frames as the released code does.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.sites import Kind, after
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.step_window import StepWindow
from vgen.formats.foreign import Foreign
from vgen.formats.tune_a_video import TunedUNet
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.methods._edit_session import Acting, EditSession
from vgen.methods._editing import Edited, Editing, check_fixed_point
from vgen.methods._recipe import UNET, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "tune_a_video",
    paper=Paper(
        "Tune-A-Video: One-Shot Tuning of Image Diffusion Models for Text-to-Video Generation",
        "2212.11565",
        2022,
    ),
    regime=Regime.CLIP,
)
@spec
class TuneAVideo(Recipe, Editing):
    """``inversion_prompt`` is what the clip is inverted with; the paper's is empty."""

    tuned: ClassVar[bool] = True
    formats: ClassVar[tuple[Foreign, ...]] = (TunedUNet(),)
    temporal: TemporalAttentionSpec = field(default_factory=TemporalAttentionSpec)
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST, Frame.PREVIOUS])
    image_norm_scope: NormScope = NormScope.FRAME
    inversion_prompt: str = ""
    fixed_point_steps: int = 0
    reconstruct: bool = True

    def __post_init__(self) -> None:
        check_fixed_point(self.fixed_point_steps)

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), self.temporal)]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {UNET: [FrameKeys(frames=self.frames)]}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def learns(self) -> tuple[str, ...]:
        return (
            "unet.image_unet.*.attn1.to_q.weight",
            "unet.image_unet.*.attn2.to_q.weight",
            "unet.inserted.*.attn_temp.*",
        )

    def prompts(self) -> list[str]:
        return [self.inversion_prompt]

    def sampling(self) -> Sampling:
        return Sampling(num_steps=50, guidance=12.5)

    def training(self) -> Training:
        return Training(lr=3e-5, weight_decay=1e-2, ema_decay=0.0, max_steps=500)

    def edit(self, session: EditSession) -> Edited:
        prompt, again = self.inversion_prompt, self.fixed_point_steps
        start = session.invert(prompt, fixed_point_steps=again).start
        reconstruction = session.reconstruct(start, prompt) if self.reconstruct else None
        encoded, guidance = session.encoded(session.wish.target), Cfg(scale=session.sampling.guidance)
        acting = Acting(edits=session.words.amplified(StepWindow()))
        latents = session.sample(start, lambda _: encoded, guidance, acting=acting)
        return Edited(latents, reconstruction)
