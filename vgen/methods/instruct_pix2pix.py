"""InstructPix2Pix: an image edited as an instruction says, without inversion and without a caption (Brooks et
al. 2023).

The whole UNet learns, and with it a zero convolution beside the first one, which reads the source's latents.
Training drops text, image or both; sampling guides by image and by text, in three rows. On a clip all frames
read the first one's keys and start from one noise, unless ``shared_noise`` is false: the paper edits images
alone. The caption of a training clip is its instruction, its field ``source`` what is edited.
"""

from __future__ import annotations

from typing import ClassVar

from vgen.attention.keys import Frame, FrameKeys
from vgen.backbones.sites import Kind, after
from vgen.conditions.source_image import SourceImage
from vgen.conditions.text import Text
from vgen.diffusion.guidance import IMAGE, TEXT, Drop, Dual, check_scale
from vgen.diffusion.solvers import Solver
from vgen.diffusion.start import Iid, Shared, Start
from vgen.formats.foreign import Foreign
from vgen.formats.instruct_pix2pix import InstructFolder
from vgen.layers.widened import Widened
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import Edited, Editing
from vgen.methods._recipe import (
    UNET,
    Conditioned,
    Insertion,
    Paper,
    Recipe,
    Regime,
    Training,
    Writes,
    method,
)
from vgen.methods._sampling import Sampling
from vgen.spec import field, spec


@method(
    "instruct_pix2pix",
    paper=Paper("InstructPix2Pix: Learning to Follow Image Editing Instructions", "2211.09800", 2023),
    regime=Regime.CORPUS,
)
@spec
class InstructPix2Pix(Recipe, Editing):
    """``image_guidance`` holds an edit to its source, ``sampling.guidance`` to its instruction. ``drop`` is
    the share of the clips that hear no text, the share that see no source, and the share that get
    neither."""

    instructed: ClassVar[bool] = True
    inverts: ClassVar[bool] = False
    formats: ClassVar[tuple[Foreign, ...]] = (InstructFolder(),)
    image_guidance: float = 1.5
    drop: float = 0.05
    frames: list[Frame] = field(default_factory=lambda: [Frame.FIRST])
    shared_noise: bool = True

    def __post_init__(self) -> None:
        check_scale(self.image_guidance)
        if not 0 <= self.drop <= 1 / 3:
            raise ValueError(
                f"drop is taken three times and lies in 0..1/3, got {self.drop:g}; the paper's is 0.05"
            )

    def conditions(self) -> dict[str, Conditioned]:
        beside = Insertion(after(Kind.CONV_IN), Widened(reading=IMAGE))
        source = Conditioned(SourceImage(beside=IMAGE), insertions=(beside,))
        return {TEXT: Conditioned(Text()), IMAGE: source}

    def dropout(self) -> list[Drop]:
        sets = ({TEXT}, {TEXT, IMAGE}, {IMAGE}) if self.drop else ()
        return [Drop(self.drop, frozenset(dropped)) for dropped in sets]

    def attention_keys(self) -> dict[str, list[FrameKeys]]:
        return {UNET: [FrameKeys(frames=self.frames)]} if self.frames else {}

    def learns(self) -> tuple[str, ...]:
        return ("unet.image_unet.*", "unet.inserted.*")

    def writes(self) -> Writes:
        """An adapter with the whole UNet in it: without its zero convolution that UNet is no image model."""
        return Writes(adapter=True, image_model=False)

    def training(self) -> Training:
        return Training(lr=1e-4, weight_decay=1e-2, ema_decay=0.9999)

    def sampling(self) -> Sampling:
        return Sampling(num_steps=100, guidance=7.5, solver=Solver.EULER_ANCESTRAL)

    def start(self) -> Start:
        return Shared() if self.shared_noise else Iid()

    def edit(self, session: EditSession) -> Edited:
        encoded = session.encoded(session.wish.instruction)
        guidance = Dual(text=session.sampling.guidance, image=self.image_guidance)
        return Edited(session.sample(session.noise, lambda _: encoded, guidance))
