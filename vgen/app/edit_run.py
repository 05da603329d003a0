"""An edit as a person asks for it."""

from __future__ import annotations

from omegaconf import MISSING

from vgen.app.control_net import ControlNetRun
from vgen.app.given_fields import GivenField
from vgen.app.stacks import StackEntry
from vgen.data.clip_files import check_least_px
from vgen.diffusion.frames import Sliding
from vgen.diffusion.step_window import StepWindow
from vgen.methods import Recipe
from vgen.methods._editing import Editing, long_clips
from vgen.methods._sampling import SamplingOverrides
from vgen.methods._wishes import Matching, Wish
from vgen.spec import Choice, field, spec

PUBLISHED = (".bin", ".ckpt", ".pt", ".pth")
"""Suffixes of checkpoints that are not vgen's."""


class Extra(Choice):
    """What is written beside the edit and the side-by-side clip."""

    RECONSTRUCTION = "reconstruction"
    MASK = "mask"


class Keep(Choice):
    """What of the source's file the edit keeps: its sound beneath the clip (``audio``), all of the picture in
    place of the square in its middle (``aspect``), its rate in place of ``fps``."""

    AUDIO = "audio"
    ASPECT = "aspect"
    FPS = "fps"


@spec
class EditRun:
    """``video`` is read at ``fps`` from ``start_seconds`` on, square, ``size_px`` 0 meaning the image model's
    own size. ``adapter`` is the checkpoint to edit with (Tune-A-Video needs one; ``untrained`` is allowed).
    ``amplify``, ``blend`` and ``cross_replace_steps`` are as in :class:`Wish`, a factor written ``word:1.5``,
    a share of the steps ``word:0.4`` (from the start) or ``word:0.2-0.6``. A clip longer than ``window`` is
    edited in windows that overlap. Without ``video``, Prompt-to-Prompt draws the source from its prompt,
    every frame anew. ``image`` is a picture in ``video``'s place, one frame. A method that was trained to
    follow an ``instruction`` takes that in place of ``source`` and ``target``. ``control_net`` stands beside
    the UNet while the clip is inverted and while it is edited. ``fields`` are what a checkpoint listens to
    beside words; those that are not given are found in the clip. ``canonical`` is an edited picture that a
    checkpoint gave out, a folder of them where it has groups, which ``mask`` tells apart. ``keep`` is what of
    the file of ``video`` stays. ``edits`` is a file of many edits, one line each, which the command line
    makes one after another."""

    method: Recipe = MISSING
    edits: str = ""
    video: str = ""
    image: str = ""
    canonical: str = ""
    mask: str = ""
    source: str = ""
    target: str = ""
    instruction: str = ""
    amplify: list[str] = field(default_factory=list)
    blend: list[str] = field(default_factory=list)
    cross_replace_steps: list[str] = field(default_factory=list)
    matching: Matching = Matching.AUTO
    adapter: str = ""
    stack: list[StackEntry] = field(default_factory=list)
    loras: list[StackEntry] = field(default_factory=list)
    fields: list[GivenField] = field(default_factory=list)
    backbone: str | None = None
    num_frames: int = 8
    fps: float = 8.0
    start_seconds: float = 0.0
    size_px: int = 0
    seed: int = 0
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    window: Sliding = field(default_factory=long_clips)
    control_net: ControlNetRun = field(default_factory=ControlNetRun)
    save: list[Extra] = field(default_factory=list)
    keep: list[Keep] = field(default_factory=list)
    least_px: int = 256
    device: str | None = None
    out: str = ""

    def __post_init__(self) -> None:
        self.video, self.adapter, self.out = (
            str(given) for given in (self.video, self.adapter, self.out)
        )  # Python hands over paths too
        self.image = str(self.image)
        check_least_px(self.least_px)
        if self.image and self.video:
            raise ValueError(f"image={self.image} and video={self.video} are both given; edit one of them")
        if self.image:
            self.num_frames = 1

    def shown(self) -> str:
        """The file that is edited, nothing where the source is drawn."""
        return self.image or self.video

    def wish(self) -> Wish:
        if self.instruction.strip():
            return Wish(instruction=self.instruction)
        if not self.target.strip() and along_pictures(self.method):
            raise ValueError('nothing says what is to be seen; give target="what it should show"')
        if not along_pictures(self.method) and not (self.target.strip() and self.source.strip()):
            raise ValueError(
                'an edit needs both prompts; give source="what the clip shows" target="what it should show"'
            )
        return Wish(
            source=self.source,
            target=self.target,
            amplify=dict(map(_factor, self.amplify)),
            blend=list(self.blend),
            cross_replace_steps=dict(map(_share, self.cross_replace_steps)),
            matching=self.matching,
        )


def _factor(text: str) -> tuple[str, float]:
    word, _, factor = text.rpartition(":")
    try:
        return word.strip(), float(factor)
    except ValueError:
        raise ValueError(f"amplify needs words with factors, as amplify=[jeep:1.5], got {text!r}") from None


def _share(text: str) -> tuple[str, StepWindow]:
    word, _, share = text.rpartition(":")
    start, _, end = share.rpartition("-")
    try:
        window = StepWindow(start=float(start or 0), end=float(end))
    except ValueError as error:
        reason = f" ({error})" if "step window" in str(error) else ""
        raise ValueError(
            "cross_replace_steps needs words with shares of the steps between 0 and 1, as "
            "cross_replace_steps=[jeep:0.4] or "
            f"[jeep:0.2-0.6], got {text!r}{reason}"
        ) from None
    return word.strip(), window


def along_pictures(recipe: Recipe) -> bool:
    return isinstance(recipe, Editing) and recipe.along_pictures
