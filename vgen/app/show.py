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
from rich.console import Console

from vgen.app.loading import TOYBOX
from vgen.attention.sites import AttentionKind, attention_sites
from vgen.backbones.blank import Blank, blank_unet, blank_vae
from vgen.backbones.image_model import ImageModel, load
from vgen.formats.adapter import plain
from vgen.methods import Recipe, assemble, catalogue

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
    Console(soft_wrap=True).print(describe(words[0], knobs, backbone), markup=False, highlight=False)


def describe(name: str, knobs: dict[str, str], backbone: str) -> str:
    """The row as text; ``docs/methods.md`` is built from the same."""
    schema = OmegaConf.structured(catalogue()[name])
    merged = OmegaConf.merge(schema, OmegaConf.from_dotlist([f"{k}={v}" for k, v in knobs.items()]))
    recipe = cast(Recipe, OmegaConf.to_object(merged))
    model = _shapes(backbone)
    lines = [
        f"{name}: {recipe.paper.title} (arXiv {recipe.paper.arxiv}, {recipe.paper.year})",
        f"regime: {recipe.regime.value}",
        "knobs:",
    ]
    lines += [
        "  " + line
        for line in OmegaConf.to_yaml(OmegaConf.create(plain(asdict(recipe)))).strip().splitlines()
    ]
    with torch.device("meta"):
        unet = assemble(recipe, model)
    parts = {"unet": unet, "vae": model.vae}
    lines.append(
        f"inserts into {backbone}: {len(unet.inserted)} layers" if len(unet.inserted) else "inserts nothing"
    )
    for path, layer in unet.inserted.items():
        size = sum(p.numel() for p in layer.parameters())
        lines.append(f"  {path.replace('/', '.')}: {type(layer).__name__}, {size:,} parameters")
    named = {f"{part}.{n}": p for part, module in parts.items() for n, p in module.named_parameters()}
    count = sum(
        p.numel() for n, p in named.items() if any(fnmatchcase(n, pattern) for pattern in recipe.learns())
    )
    for keys in recipe.attention_keys():
        read = [f.value for f in keys.frames] + [str(k) for k in keys.key_frames]
        hit = sum(
            keys.where(site) for site in attention_sites(unet.image_unet) if site.kind is AttentionKind.SELF
        )
        lines.append(f"self-attention reads {' + '.join(read)} at {hit} sites")
    lines.append(
        f"learns {', '.join(recipe.learns()) or 'nothing'}"
        + (f": {count:,} parameters ({count / 1e6:.1f} M)" if count else "")
    )
    objective: Any = recipe.objective(model)  # a dataclass, each with fields of its own
    lines.append(f"objective: {type(objective).__name__} {plain(asdict(objective))}")
    return "\n".join(lines)


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
