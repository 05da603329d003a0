"""Whether an image model's folder says something that would not be obeyed; asked before weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgen.backbones.config_keys import BETAS, KINDS, OTHER_BETAS, Kind
from vgen.backbones.foreign_settings import read_settings, refuse_programs

FILES = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}
_KINDS_OF_UNET = {
    9: "an inpainting model",
    8: "a model that edits by instruction",
    7: "an upscaler",
    5: "a model of depth",
}


def refuse_unread(folder: Path) -> None:
    """Raises ValueError naming the first class, key or value of the folder that vgen would not obey."""
    for part, kind in KINDS.items():
        refuse_programs(folder / part)
        path = folder / part / FILES.get(kind.part, "config.json")
        if path.is_file():
            _refuse(f"image model {folder}: {part}/{path.name}", _read(path), kind)
    channels = {part: _read(folder / part / "config.json") for part in ("unet", "vae")}
    refuse_channels(f"image model {folder}", channels["unet"], channels["vae"])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy or fetch the image model again")
    return read_settings(path)


def _refuse(where: str, config: Mapping[str, Any], kind: Kind) -> None:
    class_key = "tokenizer_class" if kind.part == "tokenizer" else "_class_name"
    named = config.get(class_key) or kind.classes[0]
    if named not in kind.classes:
        raise ValueError(
            f"{where} is of a {named}; vgen reads {', '.join(kind.classes)}: give a model with one"
        )
    for key, value in config.items():
        if key.startswith("_") or key == class_key:
            continue
        rule = kind.keys.get(key) or kind.foreign.get(key)
        if rule is None and value is not None:
            raise ValueError(
                f"{where} has {key}={json.dumps(value)}, a key that vgen does not know; take it out if it "
                "means nothing, or give another image model"
            )
        if rule is not None and not rule.allows(value):
            raise ValueError(f"{where} has {key}={json.dumps(value)}, {_remedy(rule.told, rule.only)}")


def _remedy(told: str, only: tuple[Any, ...] | None) -> str:
    reads = " or ".join(json.dumps(value) for value in only or (None,))
    why = told.partition(": ")[2]
    return f"which vgen does not obey{f' ({why})' * bool(why)}; it reads {reads}: give another image model"


def refuse_channels(name: str, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Raises ValueError where the UNet does not denoise what the VAE gives, or pools sizes that are not
    SDXL's."""
    gives = vae.get("latent_channels", 4)
    reads, returns = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if reads != gives:
        kind = f": it is {_KINDS_OF_UNET[reads]}" if reads in _KINDS_OF_UNET else ""
        raise ValueError(
            f"{name}: its UNet reads {reads} channels and its VAE gives {gives}{kind}; "
            "give the text-to-image model that it was made from"
        )
    if returns != gives:
        raise ValueError(
            f"{name}: its UNet returns {returns} channels and its VAE gives {gives}; give an image model "
            "that predicts latents alone"
        )


def scheduler_of(folder: Path) -> dict[str, Any]:
    """The scheduler's configuration, with what its class takes where the file says nothing of the noise."""
    config = _read(folder / "scheduler" / FILES["scheduler"])
    start, end, schedule = BETAS.get(config.get("_class_name", ""), OTHER_BETAS)
    usual: dict[str, Any] = {"beta_start": start, "beta_end": end, "beta_schedule": schedule}
    if config.get("_class_name") == "PNDMScheduler":
        usual["set_alpha_to_one"] = False
    return usual | config
