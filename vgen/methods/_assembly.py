"""From recipes and an image model to the one denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from vgen.attention.keys import FrameKeys
from vgen.attention.processor import control_of, route
from vgen.attention.temporal import route_inserted
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import INSERTED, Site, inserted_sites, sites
from vgen.backbones.video_unet import Sidecar, TextSidecar, VideoControlNet, VideoDecoder, VideoUNet
from vgen.conditions.condition import Condition
from vgen.diffusion.guidance import TIME
from vgen.diffusion.schedule import Prediction, Schedule
from vgen.layers.insertion import Inserted
from vgen.layers.norm import NormScope, pool_image_norms
from vgen.methods._recipe import UNET, VAE, Conditioned, Insertion, ModuleOf, Recipe
from vgen.methods._video_model import VideoModel


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of learning in a stack: a recipe in the slot ``name``, and how loud its inserted layers are.

    The layers of the slot without a name keep the state-dict keys of their sites; those of others carry the
    slot's name. A file has the keys of the slot without a name, whatever slot it is put into.
    """

    name: str
    recipe: Recipe
    scale: float = 1.0


def assemble(recipe: Recipe, model: ImageModel) -> VideoModel:
    """The image model with what ``recipe`` inserts and listens to, on what it stands on, untrained.

    Raises ValueError where a filter matches no site.
    """
    return assemble_stack([*beneath(recipe), Part("", recipe)], model)


def beneath(recipe: Recipe) -> list[Part]:
    """What a recipe stands on, untrained."""
    base = recipe.stands_on()
    return [] if base is None else [Part("beneath", base)]


def assemble_stack(parts: Sequence[Part], model: ImageModel) -> VideoModel:
    """The image model with what every part inserts and listens to; one of them leads: the schedule, the
    prediction and the scope of the image model's norms are its own.

    Raises ValueError where two lead by different values, or give one name to different things.
    """
    leading = leader(parts, model)
    video_model = VideoModel(
        model=model,
        unet=VideoUNet(model.unet),
        modules=nn.ModuleDict(),
        conditions={},
        needed=frozenset().union(*(_needed(part.recipe) for part in parts)),
        process=partial(_process, leading, model),
        start=leading.start(),
        keeps_first_frame=leading.keeps_first_frame(),
        frame_schedule=leading.frame_schedule,
        guidance=leading.guidance,
    )
    for part in parts:
        _refuse_unknown(part.recipe, part.recipe.conditions())
        _listen(video_model, part)
        for name, build in part.recipe.modules().items():
            _take_in(video_model, name, build)
    nets = _routed(video_model)
    for net, keys in _attention_keys(parts).items():
        control_of(_net(nets, net)).keys = tuple(keys)
    for inside in (False, True):  # what stands in inserted layers comes after them, in whatever order stacked
        for part in parts:
            wired = part.recipe.conditions().values()
            own = [*part.recipe.insertions(), *(i for one in wired for i in one.insertions)]
            now = [one for one in own if _is_inside(one) is inside]
            if now:
                add(video_model, now, part.name, part.scale)
    _pool_norms(leading, video_model)
    video_model.enter(None)
    return video_model


def _pool_norms(leading: Recipe, video_model: VideoModel) -> None:
    """Give the nets the scope of norms that the leading recipe names, the UNet and those beside it."""
    if leading.image_norms() is NormScope.CLIP:
        pool_image_norms(video_model.unet)
    if leading.beside_norms() is NormScope.CLIP:
        for net in video_model.modules.values():
            if isinstance(net, VideoControlNet):
                pool_image_norms(net)


def leader(parts: Sequence[Part], model: ImageModel) -> Recipe:
    """The recipe whose schedule, prediction and norm scope hold for all."""
    leading = [part for part in parts if part.recipe.leads]
    for other in leading[1:]:
        first = leading[0]
        for knob in ("noise_schedule", "prediction", "image_norms"):
            ours, theirs = (_fact(part.recipe, knob, model) for part in (first, other))
            if ours != theirs:
                raise ValueError(
                    f"stack.{first.name} and stack.{other.name} both lead and differ in {knob} ({ours} and "
                    f"{theirs}); stack one of them, or give both the same knob"
                )
    return (leading or list(parts))[0].recipe


def _fact(recipe: Recipe, knob: str, model: ImageModel) -> Any:
    member = getattr(recipe, knob)
    return member() if knob == "image_norms" else member(model)


def add(video_model: VideoModel, insertions: Iterable[Insertion], slot: str = "", scale: float = 1.0) -> None:
    """Insert further layers, into a slot of a stack. Raises ValueError where a filter matches no site."""
    places: dict[str, list[Site]] = {}
    for insertion in insertions:
        net = _sidecar(video_model, insertion.into)
        if insertion.into not in places:
            places[insertion.into] = _sites(net, _is_inside(insertion))
        here = places[insertion.into]
        hits = [site for site in here if insertion.where(site)]
        if not hits:
            raise ValueError(_no_site(video_model, insertion, len(here)))
        for site in hits:
            _insert(net, site, insertion, slot, scale)
    route_inserted(video_model.unet, control_of(video_model.unet))


def _is_inside(insertion: Insertion) -> bool:
    """Whether it goes into layers that were inserted before."""
    return insertion.into.endswith(f".{INSERTED}")


def _sites(net: Sidecar, inside: bool) -> list[Site]:
    return list(inserted_sites(net.inserted) if inside else sites(net.guest))


def _no_site(video_model: VideoModel, insertion: Insertion, num_sites: int) -> str:
    if not _is_inside(insertion):
        source = video_model.model.source or "the image UNet"
        return f"{insertion.where} matches none of the {num_sites} sites of {source}; 'vgen sites' lists them"
    return (
        f"{insertion.where} matches none of the {num_sites} projections of the layers that were inserted; "
        "stack the adapter that has them beneath it, as stack.motion.file=FILE"
    )


def _sidecar(video_model: VideoModel, into: str) -> Sidecar:
    """The net that an insertion names; a text encoder and the VAE get a sidecar when they are first named."""
    name = into.removesuffix(f".{INSERTED}")
    if name == VAE and name not in video_model.nets():
        video_model.modules[name] = VideoDecoder(video_model.model.vae)
    encoder = video_model.model.components().get(name) if name.startswith("text_encoder") else None
    if encoder is not None and name not in video_model.nets():
        video_model.modules[name] = TextSidecar(encoder)
    return _net(video_model.nets(), name)


def _insert(net: Sidecar, site: Site, insertion: Insertion, slot: str, scale: float) -> None:
    layer = insertion.layer.build(site, net.module_at(site.path), net.context)
    assert isinstance(layer, Inserted)
    layer.strength = scale
    net.insert(site.path, layer, slotted(insertion.name, slot))


def _refuse_unknown(recipe: Recipe, wired: dict[str, Conditioned]) -> None:
    """Raises ValueError where what is to be dropped is nothing that a clip hears."""
    for drop in recipe.dropout():
        unknown = sorted(drop.dropped - {*wired, TIME})
        if unknown:
            raise ValueError(
                f"dropout names {', '.join(unknown)}, which is no condition of this method; it has "
                f"{', '.join(wired)}, and {TIME}"
            )


def _refuse_taken(video_model: VideoModel, name: str) -> None:
    """Raises ValueError for a module that would be called as a part of the image model."""
    if name in {*video_model.model.components(), UNET}:
        raise ValueError(
            f"a condition called {name} brings a module, but a part of the image model has that "
            "name; give the condition another one"
        )


def slotted(name: str, slot: str) -> str:
    """What a layer is called in a slot of a stack: its own name, and behind a plus sign the slot's."""
    return f"{name}+{slot}" if slot else name


def _listen(video_model: VideoModel, part: Part) -> None:
    """Take in the conditions of a part, and the nets that they speak through."""
    for name, one in part.recipe.conditions().items():
        known = video_model.conditions.get(name)
        mine = one.condition.louder(part.scale)
        if known is not None and known.stands_for(mine):
            continue
        if known is not None and mine.stands_for(known):
            known = None
        if known is not None and not _same(known, mine):
            raise ValueError(
                f"stack.{part.name} gives the condition {name!r} another meaning than the parts before it; "
                "stack one of them"
            )
        if known is None:
            video_model.conditions[name] = mine
        if one.module is not None:
            _take_in(video_model, name, one.module)


def _take_in(video_model: VideoModel, name: str, build: ModuleOf) -> None:
    """Make the net ``name``, unless a part before has brought it."""
    if name not in video_model.modules:
        _refuse_taken(video_model, name)
        video_model.modules[name] = build(video_model.model)


def _needed(recipe: Recipe) -> frozenset[str]:
    """The conditions that some training clip hears, and that may not be absent."""
    wired = recipe.conditions()
    spare = recipe.never_heard() | {name for name, one in wired.items() if one.optional}
    return frozenset(wired) - spare


def _same(a: Condition, b: Condition) -> bool:
    return type(a) is type(b) and a == b


def _attention_keys(parts: Sequence[Part]) -> dict[str, list[FrameKeys]]:
    out: dict[str, list[FrameKeys]] = {}
    for part in parts:
        for net, keys in part.recipe.attention_keys().items():
            out.setdefault(net, []).extend(keys)
    return out


def _routed(video_model: VideoModel) -> dict[str, Sidecar]:
    """Every net that has a sidecar, by name, its attention run by vgen."""
    nets = video_model.nets()
    for net in nets.values():
        if hasattr(net.guest, "attn_processors"):
            route(net)
    return nets


def _net(nets: dict[str, Sidecar], name: str) -> Sidecar:
    if name not in nets:
        raise ValueError(
            f"a recipe speaks of the net {name!r}, but it has {', '.join(nets)}; put the adapter that brings "
            f"it beneath, as stack.{name}.file=FILE"
        )
    return nets[name]


def _process(recipe: Recipe, model: ImageModel) -> tuple[Schedule, Prediction]:
    return recipe.noise_schedule(model), recipe.prediction(model)
