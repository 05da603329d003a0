"""What a method is: a row of parts.

Its fields are the paper's knobs, its methods name what is inserted, what learns and on which objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, TypeVar

from vgen.attention.keys import FrameKeys
from vgen.attention.processor import route
from vgen.attention.temporal import route_inserted
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Where, sites
from vgen.backbones.video_unet import VideoUNet
from vgen.layers.insertion import LayerSpec
from vgen.layers.norm import NormScope, pool_image_norms
from vgen.methods._objectives import Objective
from vgen.spec import spec


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
    """Build ``layer`` at every site that ``where`` accepts."""

    where: Where
    layer: LayerSpec


@spec
class Recipe(ABC):
    """One row of the method table."""

    paper: ClassVar[Paper]
    regime: ClassVar[Regime]

    @abstractmethod
    def objective(self, model: ImageModel) -> Objective:
        """What is minimised, given the facts of the image model."""

    @abstractmethod
    def learns(self) -> tuple[str, ...]:
        """``fnmatch`` patterns over ``component.parameter`` (components: unet, vae, text_encoder,
        image_encoder); each must hit."""

    def insertions(self) -> Iterable[Insertion]:
        """What is inserted into the image UNet."""
        return ()

    def attention_keys(self) -> list[FrameKeys]:
        """Which frames self-attention reads; the first rule that acts at a site counts."""
        return []

    def image_norms(self) -> NormScope:
        """Over what the image UNet's own GroupNorms take their statistics."""
        return NormScope.FRAME

    def engages(self) -> tuple[str, ...]:
        """Components that hold a learning parameter: the ones an optimiser, a strategy and a checkpoint
        see."""
        return tuple(dict.fromkeys(pattern.split(".")[0] for pattern in self.learns()))


def assemble(recipe: Recipe, model: ImageModel) -> VideoUNet:
    """The image model's UNet, routed for video and holding what ``recipe`` inserts.

    Raises ValueError where a filter matches no site.
    """
    video, here = VideoUNet(model.unet), list(sites(model.unet))
    control = route(video)
    control.keys = tuple(recipe.attention_keys())
    control.enter(None)
    for where, layer in recipe.insertions():
        hits = [site for site in here if where(site)]
        if not hits:
            raise ValueError(
                f"{where} matches none of the {len(here)} sites of {model.source or 'the image UNet'}; "
                "'vgen sites' lists them"
            )
        for site in hits:
            video.insert(site.path, layer.build(site, video.frames))
    route_inserted(video, control)
    if recipe.image_norms() is NormScope.CLIP:
        pool_image_norms(video)
    return video


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
