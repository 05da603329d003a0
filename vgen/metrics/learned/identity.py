"""DINO features: is this the same subject? Self-supervised, so instances of one class stay apart, which CLIP
does less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.pretrained import pretrained, read_part
from vgen.metrics.learned.clip_model import model_type, preprocessed, resize_of
from vgen.metrics.learned.frames import in_batches
from vgen.metrics.learned.registry import plugin
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Located, Slot
from vgen.metrics.metric import Metric

DINO = Slot(
    "dino",
    "a transformers folder of DINO or DINOv2 (facebook/dino-vits16 is DreamBooth's, facebook/dino-vitb16 "
    "VBench's)",
)


@dataclass(frozen=True, slots=True)
class Dino:
    """The class token after the last norm."""

    model: Any
    processor: Any
    device: str

    @torch.inference_mode()
    def images(
        self, frames: np.ndarray, batch_size: int, prepare: Callable[[np.ndarray], Tensor] | None = None
    ) -> np.ndarray:
        """uint8 n h w 3 -> unit vectors n d, after the folder's own preprocessing or ``prepare``."""
        prepare = prepare or (lambda part: preprocessed(self.processor, part))
        extra = (
            {"interpolate_pos_encoding": True} if self.model.config.model_type == "vit" else {}
        )  # DINOv2 always does
        outputs = [
            self.model(pixel_values=prepare(part).to(self.device), **extra)
            for part in in_batches(frames, batch_size)
        ]
        return (
            F.normalize(torch.cat([output.last_hidden_state[:, 0] for output in outputs]).float(), dim=-1)
            .cpu()
            .double()
            .numpy()
        )


@plugin(
    Metric("dino_identity", 1, "mean cosine over all pairs of a frame and a picture of the subject"),
    source="DreamBooth's DINO score", needs=["subjects"], slots=[DINO],
)  # fmt: skip
def dino_identity(tools: Tools) -> Scores:
    dino = tools.network(DINO, load_dino)
    frames, subjects = (
        tools.features("dino", field, lambda x: dino.images(x, tools.settings.batch_size))
        for field in ("videos", "subjects")
    )
    return Scores(
        per_clip=[float((x @ y.T).mean()) for x, y in zip(frames, subjects, strict=True)],
        resize=resize_of(dino.processor),
    )


def load_dino(located: Located, device: str) -> Dino:
    from transformers import AutoImageProcessor, Dinov2Model, ViTModel

    kinds = {"vit": (ViTModel, {"add_pooling_layer": False}), "dinov2": (Dinov2Model, {})}
    found = model_type(located.path)
    if found not in kinds:
        raise ValueError(
            f"dino.path={located.path} must be a DINO (vit) or DINOv2 (dinov2) folder, config.json says "
            f"{found or 'nothing'}"
        )
    kind, options = kinds[found]
    model = pretrained(kind, located.path, "dino", **options).to(device)
    return Dino(model, read_part(AutoImageProcessor, located.path, "dino", backend="pil"), device)
