"""What a method is: a row of parts.

Its fields are the paper's knobs, its members name what is inserted, what it listens to, what learns and on
which objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from vgen.attention.keys import FrameKeys
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import INSERTED, Where
from vgen.conditions.condition import Condition
from vgen.conditions.text import Text
from vgen.data.subject import Subject
from vgen.diffusion.frames import FrameSchedule, Sliding
from vgen.diffusion.guidance import Cfg, Drop, Guidance
from vgen.diffusion.schedule import Prediction, Schedule, prediction_of, schedule_of
from vgen.diffusion.start import Iid, Start
from vgen.formats.foreign import Foreign
from vgen.layers.insertion import LayerSpec
from vgen.layers.norm import NormScope
from vgen.methods._cascade import Follows
from vgen.methods._objectives import Denoising, Objective
from vgen.methods._sampling import Sampling
from vgen.spec import spec

UNET, VAE = "unet", "vae"
"""The names of the net that every method has, and of the one that gives pixels; the others are those of its
modules."""
GUESTS = ("vae", "text_encoder", "text_encoder_2", "image_encoder")
"""Parts of the image model that are written with it when anything in them learns."""


class Regime(Enum):
    """What a person types for it, and what it learns from."""

    CORPUS = "corpus"
    CLIP = "clip"
    EDIT = "edit"
    FIT = "fit"
    IMAGE = (
        "image"  # trains a part of the image model itself; not one of the 22 systems, but what they stand on
    )


@dataclass(frozen=True, slots=True)
class Paper:
    title: str
    arxiv: str
    year: int


class Insertion(NamedTuple):
    """Build ``layer`` at every site of the net ``into`` that ``where`` accepts.

    ``into`` may also be a text encoder, or ``unet.inserted``: the layers that were inserted into the UNet.
    Layers without a ``name`` keep the state-dict keys of their site; a second one at a site needs a name.
    """

    where: Where
    layer: LayerSpec
    into: str = UNET
    name: str = ""


ModuleOf = Callable[[ImageModel], nn.Module]
"""Builds a net beside the UNet, for an image model."""


@dataclass(frozen=True, slots=True)
class Conditioned:
    """One thing that a method listens to, wired in one place: the condition, the net that it speaks through,
    the layers through which the UNet hears it. An ``optional`` one may lack its fields."""

    condition: Condition
    module: ModuleOf | None = None
    insertions: tuple[Insertion, ...] = ()
    optional: bool = False


@spec
class Training:
    """A paper's numbers for training; None: those of every training. ``decay`` is how the learning rate
    falls, by a name that ``optim.decay`` knows."""

    lr: float | None = None
    weight_decay: float | None = None
    ema_decay: float | None = None
    max_steps: int | None = None
    grad_clip: float | None = None
    decay: str | None = None

    def settings(self) -> dict[str, dict[str, float | str]]:
        """By the sections of a run's configuration."""
        optim: dict[str, float | str | None] = {
            name: getattr(self, name) for name in ("lr", "weight_decay", "ema_decay", "grad_clip", "decay")
        }
        trainer: dict[str, float | str | None] = {"max_steps": self.max_steps}
        sections = {"optim": optim, "trainer": trainer}
        given = {name: _given(section) for name, section in sections.items()}
        return {name: section for name, section in given.items() if section}


def _given(section: dict[str, float | str | None]) -> dict[str, float | str]:
    return {name: value for name, value in section.items() if value is not None}


class Writes(NamedTuple):
    """What a training of a method leaves: an adapter, an image model, or both."""

    adapter: bool
    image_model: bool


@spec
class Recipe:
    """One row of the method table. Every member has a default."""

    paper: ClassVar[Paper]
    regime: ClassVar[Regime]
    leads: ClassVar[bool] = True
    """Whether its schedule, prediction and norm scope hold for a stack that it is in; False for mere
    layers."""
    training_by_knobs: ClassVar[bool] = False
    """Whether the numbers of :meth:`training` depend on its knobs, so that they are asked once these are
    known."""
    on_image_model: ClassVar[bool] = True
    """Whether it stands on an image model; False: none is opened."""
    formats: ClassVar[tuple[Foreign, ...]] = ()
    """Formats of other programs that its tensors come and go in; the first one is written where nobody names
    one."""

    def objective(self, model: ImageModel) -> Objective:
        """What is minimised, given the facts of the image model."""
        return Denoising(dropout=self.dropout())

    def learns(self) -> tuple[str, ...]:
        """``fnmatch`` patterns over ``component.parameter``; each must hit.

        Components: unet, vae, text_encoder, image_encoder, and the modules by their names.
        """
        return ()

    def lr_factors(self) -> dict[str, float]:
        """Factors of the learning rate, by patterns as in :meth:`learns`; whatever none of them hits has
        1."""
        return {}

    def conditions(self) -> dict[str, Conditioned]:
        """What it listens to, by name, in the order in which it speaks."""
        return {"text": Conditioned(Text())}

    def stands_on(self) -> Recipe | None:
        """What must lie beneath it in a stack, with knobs as they come; None: the image model is enough."""
        return None

    def modules(self) -> dict[str, ModuleOf]:
        """Nets of its own by name, beside those that its conditions speak through."""
        return {}

    def insertions(self) -> Iterable[Insertion]:
        """What is inserted, beside what its conditions insert."""
        return ()

    def attention_keys(self) -> Mapping[str, list[FrameKeys]]:
        """Which frames self-attention reads, by net; the first rule that acts at a site counts."""
        return {}

    def image_norms(self) -> NormScope:
        """Over what the image UNet's own GroupNorms take their statistics."""
        return NormScope.FRAME

    def noise_schedule(self, model: ImageModel) -> Schedule:
        """The levels of noise; the image model's own."""
        return schedule_of(model.scheduler_config)

    def prediction(self, model: ImageModel) -> Prediction:
        """What the UNet's output means; what its frozen weights were trained for."""
        return prediction_of(model.scheduler_config)

    def beside_norms(self) -> NormScope:
        """The same for the nets beside the UNet."""
        return NormScope.FRAME

    def start(self) -> Start:
        """The noise that drawing starts from."""
        return Iid()

    def keeps_first_frame(self) -> bool:
        """Whether the first frame is given clean: a picture, or one that is drawn alone. Longer clips than
        the window of sampling are then drawn piece by piece, each from the last frame of the one before."""
        return False

    def frame_schedule(self, window: Sliding) -> FrameSchedule:
        """How clips are seen in drawing and editing, given the windows that a person asks for."""
        return window

    def guidance(self, scale: float) -> Guidance:
        """The branches that drawing asks, where ``sampling.guidance`` is ``scale``."""
        return Cfg(scale=scale)

    def follows(self) -> Follows | None:
        """How it goes on from a clip that another one drew, in a cascade; None: it can't."""
        return None

    def sampling(self) -> Sampling:
        """The paper's numbers for drawing and editing; ``sampling.*`` on the command line overrides them."""
        return Sampling()

    def training(self) -> Training:
        """The paper's numbers for training; ``optim.*`` and ``trainer.*`` override them."""
        return Training()

    def dropout(self) -> list[Drop]:
        """What shares of the training clips do not hear."""
        return []

    def reads(self) -> dict[str, bool]:
        """The fields that it reads, and whether a batch may lack them."""
        out: dict[str, bool] = {}
        for name, wired in self.conditions().items():
            spare = wired.optional or name in self.never_heard()
            for reading in wired.condition.reads():
                out[reading] = out.get(reading, True) and spare
        return out

    def never_heard(self) -> frozenset[str]:
        """Conditions that every training clip drops."""
        always = [drop.dropped for drop in self.dropout() if drop.share >= 1]
        return frozenset().union(*always)

    def subject(self) -> Subject | None:
        """What its training asks of the pictures of a subject; None: it takes any corpus."""
        return None

    def adversaries(self) -> dict[str, ModuleOf]:
        """Nets that learn only so that others do, by name: in no file and no average, and in no model that is
        opened."""
        return {}

    def kept(self, learnt: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a file holds of the tensors that learnt, ``component.parameter``: none of an adversary's."""
        against = self.adversaries()
        return {name: value for name, value in learnt.items() if name.partition(".")[0] not in against}

    def engages(self) -> tuple[str, ...]:
        """Components that hold a learning parameter: what an optimiser, a strategy and a checkpoint see."""
        return tuple(dict.fromkeys(pattern.split(".")[0] for pattern in self.learns()))

    def runs_unet(self) -> bool:
        """Whether its training asks the UNet: it or a net beside it learns, not parts of the image model
        alone."""
        return not all(_of_guest(pattern) for pattern in self.learns())

    def writes(self) -> Writes:
        """An image model where a part of it learns as a whole, an adapter for everything else."""
        patterns = self.learns()
        of_model = [p for p in patterns if _of_guest(p) or p == f"{UNET}.image_unet.*"]
        return Writes(adapter=len(of_model) < len(patterns), image_model=bool(of_model))


def _of_guest(pattern: str) -> bool:
    """Whether what learns is a part of the image model itself, not a layer that was inserted into it."""
    part, _, inner = pattern.partition(".")
    return part in GUESTS and not inner.startswith(f"{INSERTED}.")


_catalogue: dict[str, type[Recipe]] = {}
_R = TypeVar("_R", bound=type[Recipe])


def method(name: str, *, paper: Paper, regime: Regime) -> Callable[[_R], _R]:
    """Enrol a recipe under ``name``. Outermost decorator: ``slots`` rebuilds the class."""

    def enrol(cls: _R) -> _R:
        if name in _catalogue:
            raise ValueError(f"method {name!r} is already taken by {_catalogue[name].__module__}")
        cls.paper, cls.regime = paper, regime
        _catalogue[name] = cls
        return cls

    return enrol


def catalogue() -> dict[str, type[Recipe]]:
    return dict(sorted(_catalogue.items()))


def name_of(recipe: Recipe) -> str:
    return next(name for name, cls in _catalogue.items() if cls is type(recipe))
