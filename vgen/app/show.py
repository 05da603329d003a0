"""``vgen show METHOD``: the expanded row of a method, the sites it hits and what learns, at the shapes of an
image model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from torch import nn

from vgen.app.loading import TOYBOX
from vgen.app.terminal import Terminal
from vgen.attention.processor import control_of
from vgen.attention.sites import AttentionKind
from vgen.backbones.absent import no_image_model
from vgen.backbones.blank import Blank, blank_unet, blank_vae
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import load
from vgen.backbones.video_unet import Sidecar
from vgen.diffusion.frames import Sliding
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.start import Iid
from vgen.formats.adapter import plain
from vgen.methods import Recipe, VideoModel, assemble, catalogue
from vgen.methods._sampling import Sampling

MOST_LISTED, FEW = 32, 4
"""Layers of one kind that are listed one by one, and how many are where there are more."""
_USAGE = "vgen show METHOD [backbone=sd15|toybox|FOLDER] [KNOB=VALUE ...]"


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    words = [a for a in sys.argv[1:] if "=" not in a] + (
        [options.pop("method")] if "method" in options else []
    )
    if len(words) != 1 or words[0] not in catalogue():
        raise ValueError(f"give one method: {_USAGE}; methods are {', '.join(catalogue())}")
    backbone = options.pop("backbone", Blank.SD15.value)
    knobs = {
        key.removeprefix("method."): value for key, value in options.items()
    }  # as vgen train takes them, too
    Terminal(soft_wrap=True).print(describe(words[0], knobs, backbone), markup=False, highlight=False)


def describe(name: str, knobs: dict[str, str], backbone: str) -> str:
    """The row as text, every member of it; ``docs/methods.md`` is built from the same."""
    schema = OmegaConf.structured(catalogue()[name])
    merged = OmegaConf.merge(schema, OmegaConf.from_dotlist([f"{k}={v}" for k, v in knobs.items()]))
    recipe = cast(Recipe, OmegaConf.to_object(merged))
    model = _shapes(backbone) if recipe.on_image_model else no_image_model()
    with torch.device("meta"):
        video_model = assemble(recipe, model)
    paper = recipe.paper
    lines = [
        f"{name}: {paper.title} (arXiv {paper.arxiv}, {paper.year})",
        f"regime: {recipe.regime.value}",
        "knobs:",
        *("  " + line for line in OmegaConf.to_yaml(_plain(recipe)).strip().splitlines()),
        f"reads: {_reads(recipe)}",
        f"conditions: {_conditions(recipe)}",
        *_inserted(video_model, backbone),
        *_denoises(recipe, video_model),
        f"dropout: {_dropout(recipe)}",
        *_subject(recipe),
        f"learns: {_learns(recipe, video_model)}",
        *_rates(recipe),
        *_against(recipe),
        f"objective: {_objective(recipe, model)}",
        *([f"sampling: {_settings(recipe.sampling())}"] if recipe.on_image_model else []),
        f"training: {recipe.training().settings() or 'numbers of every training'}",
        f"writes: {_writes(recipe)}",
        f"formats: {_formats(recipe)}",
    ]
    return "\n".join(lines)


def _denoises(recipe: Recipe, video_model: VideoModel) -> list[str]:
    """What matters where an image model is asked; one line where none is."""
    if not recipe.on_image_model:
        return ["image model: none is opened"]
    start, prediction = recipe.noise_schedule(video_model.model), recipe.prediction(video_model.model)
    return [
        *_attention(recipe, video_model),
        f"image norms: statistics over a {recipe.image_norms().value}",
        f"start: {start}, {prediction.value}",
        *_frames(recipe),
    ]


def _plain(recipe: Recipe) -> Any:
    return OmegaConf.create(plain(asdict(recipe)))


def _reads(recipe: Recipe) -> str:
    named = [f"{name} (optional)" if spare else name for name, spare in recipe.reads().items()]
    return ", ".join(["video", *named])


def _conditions(recipe: Recipe) -> str:
    said = [f"{name} ({type(one.condition).__name__})" for name, one in recipe.conditions().items()]
    return ", ".join(said) or "none"


def _inserted(video_model: VideoModel, backbone: str) -> list[str]:
    out = []
    for name, net in (("unet", video_model.unet), *video_model.modules.items()):
        size = sum(p.numel() for p in net.parameters())
        if name != "unet":
            out.append(f"module {name}: {type(net).__name__}, {size:,} parameters")
        layers = dict(net.inserted.items()) if isinstance(net, Sidecar) else {}
        if layers:
            out.append(f"inserts into {backbone}, {name}: {len(layers)} layers")
        out += _listed(layers)
    return out or ["inserts nothing"]


def _listed(layers: dict[str, nn.Module]) -> list[str]:
    """A line for each layer; of more than ``MOST_LISTED`` of one kind the rest together."""
    kinds: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for path, layer in layers.items():
        kind, count = type(layer).__name__, sum(p.numel() for p in layer.parameters())
        sizes[kind] = sizes.get(kind, 0) + count
        line = f"  {path.replace('/', '.')}: {kind}, {count:,} parameters"
        kinds.setdefault(kind, []).append(line)
    out = []
    for kind, lines in kinds.items():
        out += lines if len(lines) <= MOST_LISTED else lines[:FEW]
        if len(lines) > MOST_LISTED:
            out.append(
                f"  and {len(lines) - FEW} more: {len(lines)} {kind}, {sizes[kind]:,} parameters in all"
            )
    return out


def _attention(recipe: Recipe, video_model: VideoModel) -> list[str]:
    out = []
    for net, rules in recipe.attention_keys().items():
        owner = video_model.unet if net == "unet" else video_model.modules[net]
        here = [
            site
            for site in control_of(cast(Sidecar, owner)).sites.values()
            if site.kind is AttentionKind.SELF
        ]
        for keys in rules:
            read = [f.value for f in keys.frames] + [str(k) for k in keys.key_frames]
            read += [f"what was kept as {name}" for name in keys.references]
            rows = f", of the row {keys.rows_from}" if keys.rows_from else ""
            hit = sum(keys.where(site) for site in here)
            passes = f", {' and '.join(role.value for role in keys.roles)}" if keys.roles else ""
            out.append(f"self-attention of {net} reads {' + '.join(read)}{rows} at {hit} sites{passes}")
    return out or ["self-attention reads its own frame"]


def _frames(recipe: Recipe) -> list[str]:
    """How frames belong together in drawing, where it is not the usual way."""
    start, schedule = type(recipe.start()), type(recipe.frame_schedule(Sliding()))
    said = [] if start is Iid else [f"start noise: {start.__name__}"]
    said += ["the first frame is given clean"] if recipe.keeps_first_frame() else []
    return said if schedule is Sliding else [*said, f"frames: {schedule.__name__}"]


def _dropout(recipe: Recipe) -> str:
    return (
        ", ".join(f"{drop.share:g} {'+'.join(sorted(drop.dropped))}" for drop in recipe.dropout()) or "none"
    )


def _subject(recipe: Recipe) -> list[str]:
    """What is asked of pictures of a subject, where anything is."""
    asked = recipe.subject()
    if asked is None:
        return []
    said = f", whose captions say {asked.identifier!r}" if asked.identifier else ""
    beside = ", beside pictures of its class" if asked.prior else ""
    return [f"subject: {asked.least} pictures or more{said}{beside}"]


def _learns(recipe: Recipe, video_model: VideoModel) -> str:
    parts = video_model.components().items()
    named = {f"{part}.{n}": p for part, module in parts for n, p in module.named_parameters()}
    hits = [p for n, p in named.items() if any(fnmatchcase(n, pattern) for pattern in recipe.learns())]
    count = sum(p.numel() for p in hits)
    size = f": {count:,} parameters ({count / 1e6:.1f} M)" if count else ""
    return (", ".join(recipe.learns()) or "nothing") + size


def _rates(recipe: Recipe) -> list[str]:
    """Factors of the learning rate, where there are any."""
    said = [f"{pattern} {rate:g}" for pattern, rate in recipe.lr_factors().items()]
    return [f"rates: {', '.join(said)}"] if said else []


def _against(recipe: Recipe) -> list[str]:
    """What learns against the rest, in which branches drawing is guided where it is not by text alone, and
    how it goes on from a clip."""
    said = [f"adversary {name}: learns beside, in no file" for name in recipe.adversaries()]
    guided = recipe.guidance(2.0)
    rows = [] if isinstance(guided, Cfg) else [f"guides: {', '.join(guided.rows())}"]
    follows = recipe.follows()
    return [*said, *rows, *([] if follows is None else [f"follows a clip: {follows}"])]


def _objective(recipe: Recipe, model: ImageModel) -> str:
    objective: Any = recipe.objective(model)  # a dataclass, each with fields of its own
    told = {k: v for k, v in asdict(objective).items() if k != "dropout" and v not in (None, False)}
    return f"{type(objective).__name__} {plain(told)}" if told else type(objective).__name__


def _settings(sampling: Sampling) -> str:
    said = plain(asdict(sampling))
    return ", ".join(f"{key} {said[key]}" for key in ("num_frames", "num_steps", "guidance", "solver"))


def _writes(recipe: Recipe) -> str:
    if not recipe.learns():
        return "nothing, it trains nothing"
    what = recipe.writes()
    return " and ".join(
        [*(["an adapter"] if what.adapter else []), *(["an image model"] if what.image_model else [])]
    )


def _formats(recipe: Recipe) -> str:
    """Formats of other programs, by the names that ``vgen export to=`` knows."""
    named = [one.name if one.containers else f"{one.name} (read only)" for one in recipe.formats]
    return ", ".join(named) or "none but vgen's own"


def _shapes(backbone: str) -> ImageModel:
    """An image model on the meta device, or a real folder."""
    if backbone not in [b.value for b in Blank]:
        return load(Path(backbone))
    size = Blank(backbone)
    with torch.device("meta"):
        unet, vae = blank_unet(size), blank_vae(size)
    prediction = "v_prediction" if backbone == TOYBOX else "epsilon"
    config = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": prediction,
    }
    tokenizer: Any = None  # shapes read no words
    return ImageModel(
        unet=unet, vae=vae, text_encoders=[], tokenizer=tokenizer, scheduler_config=config, source=backbone
    )
