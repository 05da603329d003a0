"""Tune-A-Video: an image model taught one clip, then asked for it in other words (Wu et al. 2022).

Self-attention reads the first and the previous frame; temporal attention stands behind every feed-forward.
Query projections and the temporal layers learn from one clip for 500 steps of 3e-5; editing starts from the
clip's DDIM inversion with the empty prompt. Differs from the released code in what is said to be the intent:
the output bias is zero too, so that the layer is born silent, and gradient checkpointing trains the down
blocks (the released one leaves 42 of 112 tensors without gradient). ``image_norm_scope: clip`` pools the
image UNet's GroupNorms over frames as the released code does.
"""

from __future__ import annotations

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.sites import Kind, after
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.step_window import StepWindow
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.methods._editing import TARGET, Edited, Editing, EditSession, check_edit
from vgen.methods._objectives import Denoising, denoising_as_trained
from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, method
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

    temporal: TemporalAttentionSpec = field(default_factory=TemporalAttentionSpec)
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST, Frame.PREVIOUS])
    image_norm_scope: NormScope = NormScope.FRAME
    num_steps: int = 50
    guidance: float = 12.5
    inversion_prompt: str = ""
    fixed_point_steps: int = 0
    reconstruct: bool = True

    def __post_init__(self) -> None:
        check_edit(self.num_steps, self.guidance, self.fixed_point_steps)

    def insertions(self) -> list[Insertion]:
        return [Insertion(after(Kind.BLOCK), self.temporal)]

    def attention_keys(self) -> list[FrameKeys]:
        return [FrameKeys(frames=self.frames)]

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def objective(self, model: ImageModel) -> Denoising:
        return denoising_as_trained(model)

    def learns(self) -> tuple[str, ...]:
        return (
            "unet.image_unet.*.attn1.to_q.weight",
            "unet.image_unet.*.attn2.to_q.weight",
            "unet.inserted.*.attn_temp.*",
        )

    def edit(self, session: EditSession) -> Edited:
        start = session.invert(
            self.inversion_prompt, self.num_steps, fixed_point_steps=self.fixed_point_steps
        ).start
        reconstruction = (
            session.reconstruct(start, self.inversion_prompt, self.num_steps) if self.reconstruct else None
        )
        context = Context.cat([session.text(""), session.text(session.wish.target)])
        latents = session.sample(
            start,
            TARGET,
            lambda _: context,
            Cfg(scale=self.guidance),
            self.num_steps,
            edits=session.amplified(StepWindow()),
        )
        return Edited(latents, reconstruction)
