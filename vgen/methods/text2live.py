"""Text2LIVE: a layer of colours and opacity painted over a picture as words say, by a net that sees this
picture alone (Bar-Tal et al. 2022).

No image model is opened: a CLIP pair judges. ``data.prompt`` says what the picture shows, ``target`` what it
shows with the layer, ``layer`` what the layer shows. A clip is edited through one picture: the canonical
picture that ``vgen edit method=codef`` gives out is painted and given back.
"""

from __future__ import annotations

from typing import ClassVar, cast

from vgen.backbones.image_model import ImageModel
from vgen.layers.edit_layer import EditLayer, EditLayerSpec
from vgen.methods._painting import TOYBOX, Painting, Weights, painted
from vgen.methods._recipe import Conditioned, ModuleOf, Paper, Recipe, Regime, Training, method
from vgen.methods._rendering import Rendered, Rendering, Shown
from vgen.methods._video_model import VideoModel
from vgen.spec import field, spec


@method(
    "text2live",
    paper=Paper("Text2LIVE: Text-Driven Layered Image and Video Editing", "2204.02491", 2022),
    regime=Regime.FIT,
)
@spec
class Text2Live(Recipe, Rendering):
    """``layer`` empty: the target's words. ``place`` names what is to be painted over: the opacity is drawn
    to it in the first ``bootstrap_steps``; empty: nowhere. ``clip`` is a transformers CLIP folder (the
    paper's is ViT-B/32), or an image model with a CLIP pair. The other knobs weigh the losses, and say what
    CLIP is shown."""

    on_image_model: ClassVar[bool] = False
    of_source: ClassVar[bool] = True
    target: str = ""
    layer: str = ""
    place: str = ""
    clip: str = TOYBOX
    edit_layer: EditLayerSpec = field(default_factory=EditLayerSpec)
    composition: float = 1.0
    screen: float = 1.0
    structure: float = 2.0
    sparsity: float = 6.0
    alpha_l1: float = 0.01
    alpha_l0: float = 0.01
    bootstrap: float = 10.0
    bootstrap_steps: int = 1000
    num_views: int = 16
    least_piece: float = 0.85
    whole_every: int = 75

    def __post_init__(self) -> None:
        if min(self.num_views, self.whole_every) < 1 or not 0 < self.least_piece <= 1:
            raise ValueError(
                "num_views and whole_every must be at least 1 and least_piece a share of a side, got "
                f"{self.num_views}, {self.whole_every} and {self.least_piece}"
            )

    def conditions(self) -> dict[str, Conditioned]:
        return {}

    def reads(self) -> dict[str, bool]:
        return {"caption": False}

    def modules(self) -> dict[str, ModuleOf]:
        return {"edit_layer": lambda _: EditLayer(self.edit_layer)}

    def objective(self, model: ImageModel) -> Painting:
        weights = Weights(
            structure=self.structure,
            screen=self.screen,
            composition=self.composition,
            sparsity_l1=self.sparsity * self.alpha_l1,
            sparsity_l0=self.sparsity * self.alpha_l0,
            bootstrap=self.bootstrap,
        )
        return Painting(
            target=self.target,
            layer=self.layer or self.target,
            place=self.place,
            clip=self.clip,
            weights=weights,
            num_views=self.num_views,
            least_piece=self.least_piece,
            whole_every=self.whole_every,
            bootstrap_steps=self.bootstrap_steps,
        )

    def learns(self) -> tuple[str, ...]:
        return ("edit_layer.*",)

    def training(self) -> Training:
        return Training(
            lr=2.5e-3, weight_decay=1e-2, ema_decay=0.0, max_steps=1000, grad_clip=0.0, decay="exponential"
        )

    def render(self, video_model: VideoModel, shown: Shown) -> Rendered:
        assert shown.source is not None  # it is of a source
        clip, layer = painted(cast(EditLayer, video_model.modules["edit_layer"]), shown.source)
        return Rendered(clip, shown.source, {"layer": layer})
