"""DreamBooth: a subject learnt from three to five pictures, under an identifier that meant nothing before
(Ruiz et al. 2022).

The whole UNet learns, on demand with the text encoder, or low-rank layers do in their place. Prior
preservation: beside every batch of the subject goes one of its class, drawn by the image model as it was, so
that the class does not take on the subject's looks. The image model that comes out, or its low-rank layers,
lie beneath any video method.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.backbones.identifiers import refuse_common, refuse_two_encoders
from vgen.backbones.image_model import ImageModel
from vgen.data.subject import Subject
from vgen.formats.foreign import Foreign
from vgen.formats.low_rank_files import KohyaFile, LowRankFolder
from vgen.methods._low_rank import WHOLE_TEXT_ENCODER, Target
from vgen.methods._objectives import PriorPreservation, check_prior_weight
from vgen.methods._recipe import Insertion, Paper, Recipe, Regime, Training, method
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "dreambooth",
    paper=Paper(
        "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
        "2208.12242",
        2022,
    ),
    regime=Regime.CORPUS,
)
@spec
class DreamBooth(Recipe):
    """Captions of the subject say ``identifier``; empty: they may say anything. ``prior_weight`` is the
    paper's lambda, 0 reads no pictures of the class. ``text_encoder`` learns it as well. With ``targets``
    only low-rank layers there learn."""

    leads: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (
        LowRankFolder(written_only=True),
        KohyaFile(written_only=True),
    )
    identifier: str = "sks"
    least_pictures: int = 3
    prior_weight: float = 1.0
    text_encoder: bool = False
    targets: list[Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_prior_weight(self.prior_weight)
        if self.least_pictures < 1:
            raise ValueError(f"least_pictures must be at least 1, got {self.least_pictures}; 3 is usual")
        if self.targets and self.text_encoder:
            raise ValueError(
                "text_encoder=true lets the whole text encoder learn, and targets low-rank layers alone; "
                "name it among the targets, as {into: text_encoder, paths: ['*_proj']}"
            )

    def subject(self) -> Subject:
        return Subject(least=self.least_pictures, identifier=self.identifier, prior=self.prior_weight > 0)

    def insertions(self) -> list[Insertion]:
        return [target.insertion() for target in self.targets]

    def objective(self, model: ImageModel) -> PriorPreservation:
        refuse_common(model, self.identifier)
        if self.text_encoder:
            refuse_two_encoders(model)
        return PriorPreservation(prior_weight=self.prior_weight)

    def learns(self) -> tuple[str, ...]:
        if self.targets:
            return tuple(dict.fromkeys(target.learns() for target in self.targets))
        return ("unet.image_unet.*", *(WHOLE_TEXT_ENCODER if self.text_encoder else ()))

    def training(self) -> Training:
        return Training(lr=5e-6, weight_decay=1e-2, ema_decay=0.0, max_steps=800)

    def sampling(self) -> Sampling:
        return Sampling(num_frames=1, num_steps=50, guidance=7.5)
