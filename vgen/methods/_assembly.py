"""From a recipe and an image model to the one denoiser."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn

from vgen.attention.processor import control_of, route
from vgen.attention.temporal import route_inserted
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Site, sites
from vgen.backbones.video_unet import Sidecar, VideoUNet
from vgen.diffusion.guidance import TIME
from vgen.diffusion.schedule import Prediction, Schedule
from vgen.layers.norm import NormScope, pool_image_norms
from vgen.methods._recipe import UNET, Conditioned, Insertion, Recipe
from vgen.methods._video_model import VideoModel


def assemble(recipe: Recipe, model: ImageModel) -> VideoModel:
    """The image model with what ``recipe`` inserts and listens to.

    Raises ValueError where a filter matches no site.
    """
    wired = recipe.conditions()
    _refuse_unknown(recipe, wired)
    spare = recipe.never_heard() | {name for name, one in wired.items() if one.optional}
    video_model = VideoModel(
        model=model,
        unet=VideoUNet(model.unet),
        modules=_modules(wired, model),
        conditions={name: one.condition for name, one in wired.items()},
        needed=frozenset(wired) - spare,
        process=partial(_process, recipe, model),
    )
    nets = _routed(video_model)
    for net, keys in recipe.attention_keys().items():
        control_of(_net(nets, net)).keys = tuple(keys)
    add(video_model, [*recipe.insertions(), *_of_conditions(wired)])
    if recipe.image_norms() is NormScope.CLIP:
        pool_image_norms(video_model.unet)
    video_model.enter(None)
    return video_model


def add(video_model: VideoModel, insertions: Iterable[Insertion]) -> None:
    """Insert further layers. Raises ValueError where a filter matches no site."""
    nets = _routed(video_model, again=False)
    places: dict[str, list[Site]] = {}
    for insertion in insertions:
        net = _net(nets, insertion.into)
        here = places.setdefault(insertion.into, list(sites(net.guest)))
        hits = [site for site in here if insertion.where(site)]
        if not hits:
            source = video_model.model.source or "the image UNet"
            raise ValueError(
                f"{insertion.where} matches none of the {len(here)} sites of {source}; 'vgen sites' lists "
                "them"
            )
        for site in hits:
            module = net.guest.get_submodule(site.path)
            net.insert(site.path, insertion.layer.build(site, module, net.context), insertion.name)
    route_inserted(video_model.unet, control_of(video_model.unet))


def _refuse_unknown(recipe: Recipe, wired: dict[str, Conditioned]) -> None:
    """Raises ValueError where what is to be dropped is nothing that a clip hears."""
    for drop in recipe.dropout():
        unknown = sorted(drop.dropped - {*wired, TIME})
        if unknown:
            raise ValueError(
                f"dropout names {', '.join(unknown)}, which is no condition of this method; it has "
                f"{', '.join(wired)}, and {TIME}"
            )


def _modules(wired: dict[str, Conditioned], model: ImageModel) -> nn.ModuleDict:
    built = {name: one.module(model) for name, one in wired.items() if one.module is not None}
    taken = sorted(built.keys() & {*model.components(), UNET})
    if taken:
        raise ValueError(
            f"a condition called {', '.join(taken)} brings a module, but a part of the image model has that "
            "name; give the condition another one"
        )
    return nn.ModuleDict(built)


def _of_conditions(wired: dict[str, Conditioned]) -> list[Insertion]:
    return [insertion for one in wired.values() for insertion in one.insertions]


def _routed(video_model: VideoModel, again: bool = True) -> dict[str, Sidecar]:
    """Every net that has a sidecar, by name, its attention run by vgen."""
    nets = video_model.nets()
    for net in nets.values() if again else ():
        if hasattr(net.guest, "attn_processors"):
            route(net)
    return nets


def _net(nets: dict[str, Sidecar], name: str) -> Sidecar:
    if name not in nets:
        raise ValueError(f"a recipe speaks of the net {name!r}, but it has {', '.join(nets)}")
    return nets[name]


def _process(recipe: Recipe, model: ImageModel) -> tuple[Schedule, Prediction]:
    return recipe.noise_schedule(model), recipe.prediction(model)
