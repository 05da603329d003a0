"""A Stable Diffusion checkpoint in one file (the layout of the LDM code) to an image model. Import only:
nobody trains in it any more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers.loaders import single_file_utils as ldm
from torch import Tensor, nn

from vgen.backbones.image_model import ImageModel
from vgen.backbones.skeleton import skeleton
from vgen.formats import state_file
from vgen.formats.motion_names import listed

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")
NOT_WEIGHTS = ("embeddings.position_ids", "logit_scale")


def load(path: Path, configs: Path) -> ImageModel:
    """``configs`` is a diffusers-layout folder of the same family, for shapes, tokenizers and schedule; its
    weights are not used.

    Raises ValueError where the file lacks a part, or a part has other tensors than ``configs`` describes.
    """
    entries, _ = state_file.read(path)
    state: dict[str, Tensor] = entries.get("state_dict", entries)
    absent = [
        name
        for name, keys in (("UNet", (UNET,)), ("VAE", (VAE,)), ("text encoder", (*CLIP, *OPEN_CLIP)))
        if not _has(state, keys)
    ]
    if absent:
        raise ValueError(
            f"{path} holds no {', '.join(absent)} under the names of a Stable Diffusion checkpoint; it has "
            f"{listed(list(state)[:5])}"
        )
    model = skeleton(configs)
    _fill(
        model.unet,
        ldm.convert_ldm_unet_checkpoint(dict(state), dict(model.unet.config)),
        f"the UNet of {path}",
        configs,
    )
    _fill(
        model.vae,
        ldm.convert_ldm_vae_checkpoint(dict(state), dict(model.vae.config)),
        f"the VAE of {path}",
        configs,
    )
    for number, encoder in enumerate(model.text_encoders):
        _fill(encoder, _text(state, encoder, number), f"text encoder {number + 1} of {path}", configs)
    model.source = str(path)
    return model.freeze()


def _has(state: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> bool:
    return any(name.startswith(prefixes) for name in state)


def _text(state: Mapping[str, Tensor], encoder: nn.Module, number: int) -> dict[str, Tensor]:
    """CLIP under its own names, or OpenCLIP (Stable Diffusion 2, the second encoder of SDXL), whose names
    diffusers translates."""
    if number == 0 and _has(state, CLIP):
        found = ldm.convert_ldm_clip_checkpoint({n: v for n, v in state.items() if n.startswith(CLIP)})
    else:
        inner = getattr(encoder, "text_model", encoder)
        found = ldm.convert_open_clip_checkpoint(inner, dict(state), prefix=OPEN_CLIP[number])
    wanted = encoder.state_dict()
    if not any(name.startswith("text_model.") for name in wanted):  # transformers >= 5.6 has lost this level
        found = {name.removeprefix("text_model."): value for name, value in found.items()}
    return {
        n: v
        for n, v in found.items()
        if not n.endswith(NOT_WEIGHTS) and (n in wanted or n != "text_projection.weight")
    }


def _fill(module: nn.Module, found: Mapping[str, Tensor], subject: str, configs: Path) -> None:
    wanted = module.state_dict()
    missing, unknown = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    other = [
        f"{n} is {tuple(found[n].shape)} for {tuple(v.shape)}"
        for n, v in wanted.items()
        if n in found and found[n].shape != v.shape
    ]
    faults = [
        f"{len(names)} {what}: {listed(names[:5])}"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", other))
        if names
    ]
    if faults:
        raise ValueError(
            f"{subject} is not what {configs} describes; {'; '.join(faults)}: give the configurations of "
            "its own family"
        )
    module.load_state_dict(dict(found), strict=True)
