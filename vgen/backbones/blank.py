"""Image models with random weights, by size.

The starting point of the toybox model, and real Stable Diffusion shapes where no weights are to be had.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from vgen.backbones.image_model import ImageModel
from vgen.backbones.vocabulary import write_tokenizer
from vgen.spec import Choice


class Blank(Choice):
    """Shapes an image model can be created with."""

    TOYBOX = "toybox"
    SD15 = "sd15"
    SD21 = "sd21"
    SDXL = "sdxl"
    SD15_NARROW = "sd15_narrow"
    SDXL_NARROW = "sdxl_narrow"


REAL = (Blank.SD15, Blank.SD21, Blank.SDXL)
"""Those of published models, whose VAE is one."""
VOCABULARY = 49408
"""Of CLIP's tokenizer: rows of the text encoders of published models."""
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
_CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
_PLAIN = ("DownBlock2D", "UpBlock2D")


def _blocks(crossed: list[bool]) -> dict[str, tuple[str, ...]]:
    """Down and up block types for levels from fine to coarse."""
    down = tuple(_CROSS[0] if c else _PLAIN[0] for c in crossed)
    up = tuple(_CROSS[1] if c else _PLAIN[1] for c in reversed(crossed))
    return {"down_block_types": down, "up_block_types": up}


def blank_unet(size: Blank) -> UNet2DConditionModel:
    """A UNet with fresh weights; build it under ``torch.device("meta")`` to count parameters for free."""
    match size:
        case Blank.TOYBOX:
            return UNet2DConditionModel(
                sample_size=16,
                block_out_channels=(48, 96, 128),
                layers_per_block=1,
                cross_attention_dim=128,
                attention_head_dim=4,
                norm_num_groups=16,
                **_blocks([True, True, False]),
            )
        case Blank.SD15:
            return UNet2DConditionModel(
                sample_size=64,
                block_out_channels=(320, 640, 1280, 1280),
                cross_attention_dim=768,
                attention_head_dim=8,
                **_blocks([True] * 3 + [False]),
            )
        case Blank.SD21:
            return UNet2DConditionModel(
                sample_size=96,
                block_out_channels=(320, 640, 1280, 1280),
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
                **_blocks([True] * 3 + [False]),
            )
        case Blank.SDXL:
            return UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                cross_attention_dim=2048,
                attention_head_dim=(5, 10, 20),
                transformer_layers_per_block=(1, 2, 10),
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=6 * 256 + 1280,
                use_linear_projection=True,
                **_blocks([False, True, True]),
            )
        case Blank.SD15_NARROW:
            return UNet2DConditionModel(
                sample_size=64,
                block_out_channels=(32, 64, 64, 64),
                cross_attention_dim=32,
                attention_head_dim=8,
                **_blocks([True] * 3 + [False]),
            )
        case Blank.SDXL_NARROW:
            return UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(32, 64, 64),
                cross_attention_dim=64,
                attention_head_dim=(2, 4, 4),
                norm_num_groups=32,
                transformer_layers_per_block=(1, 1, 2),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 32,
                use_linear_projection=True,
                **_blocks([False, True, True]),
            )


def blank_vae(size: Blank) -> AutoencoderKL:
    toy = size is Blank.TOYBOX
    width = (16, 48, 96) if toy else (128, 256, 512, 512) if size in REAL else (32, 32, 32, 32)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=width,
        layers_per_block=1 if toy else 2,
        down_block_types=("DownEncoderBlock2D",) * len(width),
        up_block_types=("UpDecoderBlock2D",) * len(width),
        norm_num_groups=8 if toy else 32,
        mid_block_add_attention=not toy,
        sample_size=64,
        scaling_factor=0.18215,
    )


def toybox_words() -> list[str]:
    """The words of the toybox's captions in alphabetical order: those of every blank model's tokenizer."""
    return Path(__file__).with_name("toybox_words.txt").read_text(encoding="utf-8").split()


def blank(size: Blank, seed: int = 0) -> ImageModel:
    """A complete image model of the given shapes; ``seed`` fixes every weight."""
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(seed)
        unet, vae = blank_unet(size), blank_vae(size)
        tokens = 48 if size is Blank.TOYBOX else 77
        write_tokenizer(Path(folder), toybox_words(), num_tokens=tokens)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }

        def text_config(hidden: int, layers: int, heads: int = 4) -> CLIPTextConfig:
            return CLIPTextConfig(
                vocab_size=VOCABULARY if size in REAL else len(tokenizer),
                hidden_size=hidden,
                intermediate_size=4 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=tokens,
                projection_dim=hidden,
                **ids,
            )

        schedule = dict(SCHEDULER, beta_schedule="scaled_linear", prediction_type="epsilon")
        common = {"tokenizer": tokenizer, "unet": unet, "vae": vae, "scheduler_config": schedule}
        match size:
            case Blank.TOYBOX:
                vision = CLIPVisionConfig(
                    hidden_size=128,
                    intermediate_size=512,
                    num_hidden_layers=4,
                    num_attention_heads=4,
                    image_size=64,
                    patch_size=8,
                    projection_dim=128,
                )
                processor = CLIPImageProcessorPil(
                    size={"shortest_edge": 64},
                    crop_size=64,
                    image_mean=[0.5] * 3,
                    image_std=[0.5] * 3,
                    resample=2,
                )
                common["scheduler_config"] |= {"beta_schedule": "linear", "prediction_type": "v_prediction"}
                return ImageModel(
                    text_encoders=[CLIPTextModelWithProjection(text_config(128, 3))],
                    image_encoder=CLIPVisionModelWithProjection(vision),
                    image_processor=processor,
                    **common,
                )
            case Blank.SDXL_NARROW:
                second = CLIPTextModelWithProjection(text_config(32, 2))
                return ImageModel(
                    text_encoders=[CLIPTextModel(text_config(32, 2)), second],
                    second_tokenizer=tokenizer,
                    **common,
                )
            case Blank.SD15:
                return ImageModel(text_encoders=[CLIPTextModel(text_config(768, 12, 12))], **common)
            case Blank.SD21:
                return ImageModel(text_encoders=[CLIPTextModel(text_config(1024, 23, 16))], **common)
            case Blank.SDXL:
                second = CLIPTextModelWithProjection(text_config(1280, 32, 20))
                return ImageModel(
                    text_encoders=[CLIPTextModel(text_config(768, 12, 12)), second],
                    second_tokenizer=tokenizer,
                    **common,
                )
            case Blank.SD15_NARROW:
                return ImageModel(
                    text_encoders=[CLIPTextModel(text_config(unet.config["cross_attention_dim"], 2))],
                    **common,
                )
