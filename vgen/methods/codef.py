"""CoDeF: a clip as one canonical picture and a deformation that bends every frame onto it, so that one edited
picture is the whole clip edited (Ouyang et al. 2023).

Both are fields over hash grids, fitted to one clip; no image model is opened. ``vgen edit method=codef
adapter=RUN`` writes ``canonical.png``, which any verb or a hand edits; ``canonical=edited.png`` shows the
clip with it. ``video_field.kind=fourier`` is the paper's comparison.
"""

from __future__ import annotations

from typing import ClassVar, cast

from vgen.backbones.image_model import ImageModel
from vgen.diffusion.step_window import StepWindow
from vgen.layers.canonical_field import ROOM, VideoField, VideoFieldSpec
from vgen.methods._recipe import Conditioned, ModuleOf, Paper, Recipe, Regime, Training, method
from vgen.methods._reconstruction import (
    Reconstruction,
    as_pictures,
    canonical_pictures,
    named_pictures,
    shown_frames,
)
from vgen.methods._rendering import Rendered, Rendering, Shown, as_bytes
from vgen.methods._video_model import VideoModel
from vgen.spec import field, spec


@method(
    "codef",
    paper=Paper(
        "CoDeF: Content Deformation Fields for Temporally Consistent Video Processing", "2308.07926", 2023
    ),
    regime=Regime.FIT,
)
@spec
class CoDeF(Recipe, Rendering):
    """``gradient``, ``flow`` and ``background`` weigh the terms beside the colours'. ``margin``: what the
    canonical picture has beyond each edge of the frame, as a share of its height. Groups of ``video_field``
    move apart from each other and need the field ``mask``."""

    on_image_model: ClassVar[bool] = False
    of_canonical: ClassVar[bool] = True
    video_field: VideoFieldSpec = field(default_factory=VideoFieldSpec)
    gradient: float = 0.1
    flow: float = 1.0
    background: float = 0.003
    annealing: StepWindow = field(default_factory=lambda: StepWindow(start=0.4, end=0.8))
    margin: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= ROOM:
            raise ValueError(f"margin lies in 0..{ROOM}, got {self.margin}; the canonical field ends there")
        weights = (self.gradient, self.flow, self.background)
        if min(weights) < 0:
            raise ValueError(f"gradient, flow and background must not be negative, got {weights}")

    def conditions(self) -> dict[str, Conditioned]:
        return {}

    def modules(self) -> dict[str, ModuleOf]:
        return {"field": lambda _: VideoField(self.video_field)}

    def reads(self) -> dict[str, bool]:
        return {"flow": True} | ({"mask": False} if self.groups() > 1 else {})

    def groups(self) -> int:
        return self.video_field.num_groups

    def objective(self, model: ImageModel) -> Reconstruction:
        return Reconstruction(
            gradient=self.gradient, flow=self.flow, background=self.background, annealing=self.annealing
        )

    def learns(self) -> tuple[str, ...]:
        return ("field.*",)

    def training(self) -> Training:
        return Training(
            lr=1e-3, weight_decay=0.0, ema_decay=0.0, max_steps=10_000, grad_clip=0.0, decay="halves"
        )

    def render(self, video_model: VideoModel, shown: Shown) -> Rendered:
        fields = cast(VideoField, video_model.modules["field"])
        border = round(self.margin * shown.height_px)
        canonical = canonical_pictures(fields, shown.size, border)
        before = as_bytes(shown_frames(fields, shown, border))
        if not shown.canonical:
            return Rendered(before, before, named_pictures(as_bytes(canonical)))
        edited = as_pictures(shown.canonical, canonical)
        return Rendered(as_bytes(shown_frames(fields, shown, border, edited)), before)
