"""An image model's folder in diffusers' layout: read from disk, and written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from vgen.backbones.config_check import refuse_unread, scheduler_of
from vgen.backbones.foreign_settings import of_transformers, read_settings, refuse_programs
from vgen.backbones.image_model import ImageModel

_TEXTS = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def save(model: ImageModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers-layout folder (safetensors) that any Stable Diffusion tool loads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in model.components().items():
        before = next(module.parameters()).dtype
        nn.Module.to(module, dtype)
        with _quietly():
            module.save_pretrained(folder / name, safe_serialization=True)
        nn.Module.to(module, before)
        if isinstance(module, CLIPPreTrainedModel):
            _opens_in(before, folder / name / "config.json")
    model.tokenizer.save_pretrained(folder / "tokenizer")
    if model.second_tokenizer is not None:
        model.second_tokenizer.save_pretrained(folder / "tokenizer_2")
    if model.image_processor is not None:
        model.image_processor.save_pretrained(folder / "feature_extractor")
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": "DDIMScheduler", **model.scheduler_config}
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(scheduler, indent=2, sort_keys=True)
    )
    (folder / "model_index.json").write_text(json.dumps(_index(model), indent=2))


def _index(model: ImageModel) -> dict[str, Any]:
    absent = [None, None]
    encodes_pictures = model.image_encoder is not None
    processes_pictures = model.image_processor is not None
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if model.is_sdxl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        # with a projection or without: what these pipelines open it as
        "text_encoder": ["transformers", "CLIPTextModel"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"] if processes_pictures else absent,
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"] if encodes_pictures else absent,
    }
    if model.is_sdxl:
        return index | {
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        }
    return index | {"safety_checker": absent, "requires_safety_checker": False}


def _opens_in(dtype: torch.dtype, config: Path) -> None:
    """A pipeline opens its diffusers parts in fp32 and the others in the type that their configuration names:
    all in one."""
    told = json.loads(config.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def text_class(folder: Path, named: str) -> type[CLIPPreTrainedModel]:
    """The class of a text encoder: ``named`` by model_index.json, or the one with a projection where its own
    configuration says that its weights have one, which Stable Diffusion's pipelines do not open. Raises
    ValueError for another encoder than CLIP's."""
    if named not in _TEXTS:
        raise ValueError(f"{folder} is a {named}, only {' and '.join(_TEXTS)} are supported")
    config = folder / "config.json"
    holds = read_settings(config).get("architectures") if config.is_file() else None
    return (
        CLIPTextModelWithProjection
        if CLIPTextModelWithProjection.__name__ in (holds or [])
        else _TEXTS[named]
    )


def load(folder: Path) -> ImageModel:
    """Read a diffusers-layout folder from disk in fp32; nothing is downloaded and no code of the folder runs.

    Raises ValueError naming what is missing.
    """
    listed = _listed(folder)
    if missing := [name for name in _PARTS if not (folder / name).is_dir()]:
        raise ValueError(
            f"image model {folder} lacks {', '.join(missing)}; "
            "a diffusers-layout folder holds unet/ vae/ text_encoder/ tokenizer/ scheduler/"
        )
    refuse_unread(folder)
    second = folder / "tokenizer_2"
    options = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}  # True needs accelerate
    return ImageModel(
        unet=_read(UNet2DConditionModel, folder / "unet", **options),
        vae=_read(AutoencoderKL, folder / "vae", **options),
        text_encoders=_text_encoders(folder, listed),
        tokenizer=_tokenizer(folder / "tokenizer"),
        # the second may have been put beside, which no index says
        second_tokenizer=_tokenizer(second) if "tokenizer_2" in listed and second.is_dir() else None,
        image_encoder=_image_encoder(folder / "image_encoder"),
        image_processor=_image_processor(folder / "feature_extractor"),
        scheduler_config=scheduler_of(folder),
        source=str(folder),
    )


def _listed(folder: Path) -> dict[str, list[Any]]:
    """The parts that model_index.json names, each with its library and class."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"image model {folder} has no model_index.json; "
            "give a diffusers-layout Stable Diffusion folder (unet/ vae/ text_encoder/ tokenizer/ scheduler/)"
        )
    settings = read_settings(index).items()
    return {name: value for name, value in settings if isinstance(value, list) and value and value[0]}


def _text_encoders(folder: Path, listed: dict[str, list[Any]]) -> list[CLIPPreTrainedModel]:
    out: list[CLIPPreTrainedModel] = []
    for name in ("text_encoder", "text_encoder_2"):
        if name in listed:
            kind = text_class(folder / name, listed[name][1])
            out.append(_read(kind, folder / name, dtype=torch.float32))
    return out


def _tokenizer(part: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(part, local_files_only=True)


def _image_encoder(part: Path) -> CLIPVisionModelWithProjection | None:
    return _read(CLIPVisionModelWithProjection, part, dtype=torch.float32) if part.is_dir() else None


def _image_processor(part: Path) -> CLIPImageProcessorPil | None:
    return CLIPImageProcessorPil.from_pretrained(part, local_files_only=True) if part.is_dir() else None


@contextmanager
def _quietly() -> Iterator[None]:
    """No bar for reading or writing a local file; nor what DeepSpeed says of the machine when it is imported,
    as transformers does before it writes where accelerate is installed. A caller's own settings are put back,
    since they belong to the whole process."""
    shown, deepspeed = transformers_logging.is_progress_bar_enabled(), logging.getLogger("DeepSpeed")
    transformers_logging.disable_progress_bar()
    deepspeed.addFilter(_is_error)
    try:
        yield
    finally:
        deepspeed.removeFilter(_is_error)
        if shown:
            transformers_logging.enable_progress_bar()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _read(kind: Any, part: Path, **options: Any) -> Any:
    """One part from its folder; folders that hold half precision alone, as many on the hub do, are read from
    that."""
    refuse_programs(part)
    if issubclass(kind, PreTrainedModel):
        options |= of_transformers()
    names = [path.name for path in part.glob("*.safetensors")]
    if not names:
        raise ValueError(
            f"{part} holds no .safetensors; other files of weights can execute code and are not read: "
            "convert them first"
        )
    if all(".fp16" in name for name in names):
        options["variant"] = "fp16"
    try:
        with _quietly():
            return kind.from_pretrained(part, use_safetensors=True, local_files_only=True, **options)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{part} cannot be read ({str(error).splitlines()[0]}); fetch or copy it again"
        ) from error
