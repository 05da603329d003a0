"""An image model from configurations alone: the shapes of a diffusers-layout folder, fresh weights."""

from __future__ import annotations

from pathlib import Path

from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPPreTrainedModel, CLIPTextConfig, CLIPTokenizer

from vgen.backbones.config_check import refuse_unread, scheduler_of
from vgen.backbones.foreign_settings import ATTENTION, read_settings, refuse_programs
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import text_class

USUAL_PX = 512
"""What Stable Diffusion 1 draws."""


def native_px(folder: Path) -> int:
    """The side of the pictures that the image model of a folder draws, as its configurations say;
    :data:`USUAL_PX` where they say nothing."""
    unet, vae = (folder / part / "config.json" for part in ("unet", "vae"))
    if not (unet.is_file() and vae.is_file()):
        return USUAL_PX
    cells, levels = read_settings(unet).get("sample_size"), read_settings(vae).get("block_out_channels")
    return cells * 2 ** (len(levels) - 1) if isinstance(cells, int) and levels else USUAL_PX


def skeleton(folder: Path) -> ImageModel:
    """Reads configurations, tokenizers and the noise schedule; needs no weights in ``folder``. Raises
    ValueError naming what is missing."""
    parts = [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ]
    missing = [part for part in parts if not (folder / part).exists()]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; give a diffusers-layout folder of the same family, its "
            "weights are not needed"
        )
    refuse_unread(folder)
    listed = read_settings(folder / "model_index.json")
    encoders: list[CLIPPreTrainedModel] = []
    for name in ("text_encoder", "text_encoder_2"):
        if (folder / name / "config.json").is_file():
            encoder = text_class(folder / name, (listed.get(name) or ["transformers", "CLIPTextModel"])[1])
            refuse_programs(folder / name)
            shape = CLIPTextConfig.from_pretrained(folder / name, local_files_only=True)
            shape._attn_implementation = ATTENTION
            encoders.append(encoder(shape))
    second = folder / "tokenizer_2"
    return ImageModel(
        unet=UNet2DConditionModel.from_config(read_settings(folder / "unet" / "config.json")),
        vae=AutoencoderKL.from_config(read_settings(folder / "vae" / "config.json")),
        text_encoders=encoders,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        second_tokenizer=CLIPTokenizer.from_pretrained(second, local_files_only=True)
        if second.is_dir()
        else None,
        scheduler_config=scheduler_of(folder),
        source=str(folder),
    )
