"""AnimateDiff: motion modules in a frozen image UNet, trained on text-video pairs (Guo et al. 2023).

Versions differ in knobs, not in kind: v1 pools the image UNet's GroupNorm over frames and has 24 positions,
v2 adds a module to the middle block, v3 drops it again and runs on a domain adapter, SDXL has three levels
and its own schedule. The defaults are v3's. The noise schedule is the method's own ("linear", .00085 to
.012), not the image model's; the prediction (epsilon or v) is the image model's, since its weights stay
frozen. The domain adapter and MotionLoRA are later stages.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Stage, after
from vgen.diffusion.guidance import Drop
from vgen.diffusion.schedule import Betas, Schedule
from vgen.formats.foreign import Foreign
from vgen.formats.motion_files import MotionFile, MotionFolder
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.methods._objectives import Denoising, check_training_draws, share_of_text
from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "animatediff",
    paper=Paper(
        "AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models without Specific Tuning",
        "2307.04725",
        2023,
    ),
    regime=Regime.CORPUS,
)
@spec
class AnimateDiff(Recipe):
    """Knobs that no checkpoint stores (norm scopes, schedule) are part of the recipe and travel in its
    card."""

    formats: ClassVar[tuple[Foreign, ...]] = (MotionFile(), MotionFolder())
    motion: MotionModuleSpec = field(default_factory=MotionModuleSpec)
    mid_block: bool = False
    image_norm_scope: NormScope = NormScope.FRAME
    schedule: Schedule = field(default_factory=lambda: Schedule(betas=Betas.LINEAR))
    text_drop: float = 0.1
    timestep_shift: float = 1.0

    def __post_init__(self) -> None:
        check_training_draws(self.text_drop, self.timestep_shift)

    def insertions(self) -> list[Insertion]:
        stages = [Stage.DOWN, Stage.MID, Stage.UP] if self.mid_block else [Stage.DOWN, Stage.UP]
        return [Insertion(after(Kind.PAIR, stages=stages), self.motion)]

    def image_norms(self) -> NormScope:
        return self.image_norm_scope

    def noise_schedule(self, model: ImageModel) -> Schedule:
        return self.schedule

    def dropout(self) -> list[Drop]:
        return share_of_text(self.text_drop)

    def objective(self, model: ImageModel) -> Denoising:
        return Denoising(dropout=self.dropout(), timestep_shift=self.timestep_shift)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=16, num_steps=25, guidance=7.5)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2)

    def learns(self) -> tuple[str, ...]:
        return ("unet.inserted.*",)
