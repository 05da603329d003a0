"""A CLIP pair from a local folder, with its own preprocessing: a transformers CLIPModel, or the two encoders
of an image model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.pretrained import pretrained, read_part
from vgen.metrics.learned.frames import in_batches
from vgen.metrics.learned.weights import Located, Slot

CLIP = Slot(
    "clip",
    "a transformers CLIP folder (openai/clip-vit-large-patch14 is TGVE's, openai/clip-vit-base-patch32 "
    "FateZero's and VBench's), or an "
    "image model with a CLIP pair, such as data/toybox",
)
_FILTER = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}


@dataclass(frozen=True, slots=True)
class ClipModel:
    """``image`` maps n 3 h w, ``text`` token ids and mask, to n d of one space. ``scale``: the trained factor
    of cosines, if known."""

    image: Callable[[Tensor], Tensor]
    text: Callable[[Tensor, Tensor], Tensor]
    tokenizer: Any
    num_tokens: int
    processor: Any
    scale: float | None
    device: str

    def images(self, frames: np.ndarray, batch_size: int) -> np.ndarray:
        """uint8 n h w 3 -> unit vectors n d. The processor gets uint8: it would divide floats in 0..1 by 255
        once more."""
        return self.tensors(frames, batch_size, lambda part: preprocessed(self.processor, part))

    @torch.inference_mode()
    def tensors(
        self, frames: np.ndarray, batch_size: int, prepare: Callable[[np.ndarray], Tensor]
    ) -> np.ndarray:
        """The same with another preprocessing."""
        parts = [
            F.normalize(self.image(prepare(part).to(self.device)).float(), dim=-1)
            for part in in_batches(frames, batch_size)
        ]
        return torch.cat(parts).cpu().double().numpy()

    @torch.inference_mode()
    def texts(self, prompts: list[str]) -> np.ndarray:
        """Unit vectors n d. Long prompts are cut before the end mark, whose state is the embedding: a cut
        that drops it reads garbage."""
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.num_tokens, return_tensors="pt"
        ).to(self.device)
        return (
            F.normalize(self.text(tokens.input_ids, tokens.attention_mask).float(), dim=-1)
            .cpu()
            .double()
            .numpy()
        )

    def num_cut(self, prompts: list[str]) -> int:
        """How many prompts are longer than the text encoder reads."""
        return sum(len(ids) > self.num_tokens for ids in self.tokenizer(prompts, verbose=False).input_ids)

    @property
    def resize(self) -> str:
        return resize_of(self.processor)


def load_clip(located: Located, device: str, name: str = "clip") -> ClipModel:
    """Raises ValueError where the folder is neither a CLIP nor an image model with a CLIP pair."""
    folder = located.path
    if (folder / "model_index.json").is_file():
        return _pair(folder, device, name)
    from transformers import CLIPModel

    if model_type(folder) != "clip":
        raise ValueError(
            f"{name}.path={folder} must be a transformers CLIP folder or an image model with a CLIP pair, "
            "its config.json says "
            f"{model_type(folder) or 'nothing'}; point it at one"
        )
    model = pretrained(CLIPModel, folder, name).to(device)
    return ClipModel(
        image=lambda x: model.visual_projection(model.vision_model(pixel_values=x).pooler_output),
        text=lambda ids, mask: model.text_projection(
            model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        ),
        tokenizer=_tokenizer(folder, name),
        num_tokens=model.config.text_config.max_position_embeddings,
        processor=_processor(folder, name),
        scale=float(model.logit_scale.exp()),
        device=device,
    )


def _pair(folder: Path, device: str, name: str) -> ClipModel:
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    parts = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(
            f"{name}.path={folder} is an image model without {' and '.join(missing)}: it has no CLIP pair; "
            "use a CLIP folder"
        )
    text = pretrained(CLIPTextModelWithProjection, folder / "text_encoder", name).to(device)
    image = pretrained(CLIPVisionModelWithProjection, folder / "image_encoder", name).to(device)
    return ClipModel(
        image=lambda x: image(pixel_values=x).image_embeds,
        text=lambda ids, mask: text(input_ids=ids, attention_mask=mask).text_embeds,
        tokenizer=_tokenizer(folder / "tokenizer", name),
        num_tokens=text.config.max_position_embeddings,
        processor=_processor(folder / "feature_extractor", name),
        scale=None,
        device=device,
    )


def preprocessed(processor: Any, frames: np.ndarray) -> Tensor:
    """uint8 n h w 3 -> n 3 h w as the model's own processor makes it (PIL: antialiased)."""
    return processor(images=list(frames), input_data_format="channels_last", return_tensors="pt").pixel_values


def resize_of(processor: Any) -> str:
    """The processor's resize in words, for manifests."""
    size = ", ".join(f"{key} {value}" for key, value in dict(processor.size).items() if value is not None)
    crop = dict(processor.crop_size or {}) if getattr(processor, "do_center_crop", False) else {}
    words = [f"PIL {_FILTER[int(processor.resample)]}, antialias, {size}"] if processor.do_resize else []
    words += [f"centre crop {crop['height']}×{crop['width']}"] if crop else []
    return "; ".join(words) or "none"


def _tokenizer(folder: Path, name: str) -> Any:
    from transformers import CLIPTokenizer

    tokenizer = read_part(CLIPTokenizer, folder, name)
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # transformers makes an empty one where the files are missing
        raise ValueError(
            f"{name}.path: {folder} must hold the tokenizer (tokenizer.json, or vocab.json and merges.txt); "
            "get all of it"
        )
    return tokenizer


def _processor(folder: Path, name: str) -> Any:
    from transformers import CLIPImageProcessorPil

    return read_part(CLIPImageProcessorPil, folder, name)


def model_type(folder: Path) -> str:
    config = folder / "config.json"
    return json.loads(config.read_text()).get("model_type", "") if config.is_file() else ""
