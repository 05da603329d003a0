"""DreamPose: a person's picture that moves along poses (Karras et al. 2023).

The picture stands in the place of words: CLIP's tokens, and the VAE's latents through an adapter. Five poses
lie beside the latents of each frame, which a zero convolution reads. The whole UNet learns with both, on many
people (``dreampose``), then, from ``run.init_from``, on one; then the VAE's decoder learns that person
(``dreampose_decoder``), and lies in a stack beside the rest. Frames are drawn apart, from one noise and the
picture's own latents. A reference is a frame of the training clip: ``vgen prepare fields=[pose,reference]``.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.reference_adapter import ReferenceAdapter, reference_adapter
from vgen.backbones.sites import Kind, after
from vgen.conditions.pose_window import PoseWindow
from vgen.conditions.reference import Reference
from vgen.diffusion.guidance import IMAGE, POSE, Drop, Nested, check_scale
from vgen.diffusion.start import NoisedPicture
from vgen.formats.dreampose import PosedFolder
from vgen.formats.foreign import Foreign
from vgen.layers.widened import Widened
from vgen.methods._objectives import Reconstruction
from vgen.methods._recipe import Conditioned, Insertion, Paper, Recipe, Regime, Training, Writes, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec

PAPER = Paper("DreamPose: Fashion Image-to-Video Synthesis via Stable Diffusion", "2304.06025", 2023)


@method("dreampose", paper=PAPER, regime=Regime.CORPUS)
@spec
class DreamPose(Recipe):
    """``image_guidance`` holds a clip to its picture, ``sampling.guidance`` to its poses. ``drop`` is the
    share of the clips that lack something: a third of them the pose, a third the picture, a third both. It is
    0 where one person is learnt."""

    formats: ClassVar[tuple[Foreign, ...]] = (PosedFolder(),)
    reference: Reference = field(default_factory=Reference)
    pose: PoseWindow = field(default_factory=PoseWindow)
    image_guidance: float = 8.0
    drop: float = 0.15

    def __post_init__(self) -> None:
        check_scale(self.image_guidance)
        if not 0 <= self.drop <= 1:
            raise ValueError(f"drop is a share of the clips, 0 to 1, got {self.drop:g}; the paper's is 0.15")

    def conditions(self) -> dict[str, Conditioned]:
        beside = Widened(reading=self.pose.beside, channels=self.pose.channels())
        poses = Conditioned(self.pose, insertions=(Insertion(after(Kind.CONV_IN), beside),))
        return {IMAGE: Conditioned(self.reference, module=partial(_adapter, self)), POSE: poses}

    def dropout(self) -> list[Drop]:
        sets = ({POSE}, {IMAGE}, {IMAGE, POSE}) if self.drop else ()
        return [Drop(self.drop / 3, frozenset(dropped)) for dropped in sets]

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*", "unet.inserted.*", f"{IMAGE}.*")

    def writes(self) -> Writes:
        """An adapter with the whole UNet in it: without poses and picture that UNet is no image model."""
        return Writes(adapter=True, image_model=False)

    def start(self) -> NoisedPicture:
        return NoisedPicture()

    def guidance(self, scale: float) -> Nested:
        return Nested(conditions=[IMAGE, POSE], scales=[self.image_guidance, scale])

    def training(self) -> Training:
        return Training(lr=5e-6, weight_decay=1e-2)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=100, guidance=3.0)


@method("dreampose_decoder", paper=PAPER, regime=Regime.CORPUS)
@spec
class DreamPoseDecoder(Recipe):
    """The decoder of the VAE on the frames of one person: mean squared error of what it makes of their
    latents."""

    leads: ClassVar[bool] = False

    def conditions(self) -> dict[str, Conditioned]:
        return {}

    def objective(self, model: ImageModel) -> Reconstruction:
        return Reconstruction()

    def learns(self) -> tuple[str, ...]:
        return ("vae.decoder.*",)

    def writes(self) -> Writes:
        """An adapter, which lies beside the UNet's in a stack."""
        return Writes(adapter=True, image_model=False)

    def training(self) -> Training:
        return Training(lr=5e-5, weight_decay=1e-2)


def _adapter(recipe: DreamPose, model: ImageModel) -> ReferenceAdapter:
    return reference_adapter(model, *recipe.reference.size(model))
