"""Follow Your Pose: clips of given poses from an image model, taught without clips of poses (Ma et al. 2024).

Stage one (``follow_your_pose_encoder``) teaches a pose encoder on pictures and their poses. Stage two
(``follow_your_pose``) teaches attention and thin convolutions over frames on clips without poses. Drawing
stacks both. The code of stage one was never released; here it is the paper's.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.feature_net import feature_net
from vgen.backbones.sites import Kind, Stage, after
from vgen.conditions.features import FeatureMaps
from vgen.conditions.text import Text
from vgen.formats.follow_your_pose import PosedUNet
from vgen.formats.foreign import Foreign
from vgen.formats.pose_encoder import PoseEncoderFile
from vgen.layers.features import AddFeatureSpec
from vgen.layers.low_rank_conv import LowRankConvSpec
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.methods._recipe import UNET, Conditioned, Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

PAPER = Paper(
    "Follow Your Pose: Pose-Guided Text-to-Video Generation using Pose-Free Videos", "2304.01186", 2023
)
POSE = "pose"


@method("follow_your_pose_encoder", paper=PAPER, regime=Regime.CORPUS)
@spec
class FollowYourPoseEncoder(Recipe):
    """``pose`` says which field is seen and how loud its maps are. Pictures are clips of one frame."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (PoseEncoderFile(POSE),)
    pose: FeatureMaps = field(default_factory=FeatureMaps)

    def conditions(self) -> dict[str, Conditioned]:
        adds = AddFeatureSpec(feature=self.pose.reading)
        heard = Insertion(after(Kind.RESOLUTION, stages=[Stage.DOWN]), adds, name=POSE)
        seen = Conditioned(self.pose, module=feature_net, insertions=(heard,))
        return {"text": Conditioned(Text()), POSE: seen}

    def learns(self) -> tuple[str, ...]:
        return (f"{POSE}.*",)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=1, num_steps=50, guidance=12.5)

    def training(self) -> Training:
        return Training(lr=3e-5, weight_decay=1e-2, ema_decay=0.0, max_steps=100_000)


@method("follow_your_pose", paper=PAPER, regime=Regime.CORPUS)
@spec
class FollowYourPose(Recipe):
    """``temporal`` and ``convolution`` act after every transformer block, in this order. ``frames`` are those
    that self-attention reads. The released UNet pools the norms of its residual blocks over frames."""

    formats: ClassVar[tuple[Foreign, ...]] = (PosedUNet(),)
    temporal: TemporalAttentionSpec = field(default_factory=TemporalAttentionSpec)
    convolution: LowRankConvSpec = field(default_factory=LowRankConvSpec)
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST, Frame.PREVIOUS])
    image_norm_scope: NormScope = NormScope.CLIP

    def insertions(self) -> list[Insertion]:
        block = after(Kind.BLOCK)
        return [Insertion(block, self.temporal), Insertion(block, self.convolution, name="conv_temporal")]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {UNET: [FrameKeys(frames=self.frames)]}

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def learns(self) -> tuple[str, ...]:
        queries = ("unet.image_unet.*.attn1.to_q.weight", "unet.image_unet.*.attn2.to_q.weight")
        return (*queries, "unet.inserted.*.attn_temp.*", "unet.inserted.*@conv_temporal.*")

    def sampling(self) -> Sampling:
        return Sampling(num_frames=8, num_steps=50, guidance=12.5)

    def training(self) -> Training:
        return Training(lr=3e-5, weight_decay=1e-2, ema_decay=0.0, max_steps=50_000)
