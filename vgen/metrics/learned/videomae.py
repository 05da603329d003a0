"""VideoMAE features: motion and content weigh in alike, where I3D's mostly see content (Ge et al. 2024, "On
the content bias of FVD")."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgen.backbones.pretrained import pretrained
from vgen.metrics.learned.frames import pixels
from vgen.metrics.learned.weights import Located, Slot, read_state

VIDEOMAE = Slot(
    "videomae",
    "OpenGVLab's vit_g_hybrid_pt_1200e_ssv2_ft.pth (the published metric's), or a transformers folder of a "
    "VideoMAEForVideoClassification",
)
_HEADS = {
    384: 6,
    768: 12,
    1024: 16,
    1280: 16,
    1408: 16,
}  # by width: no tensor of the file tells (VideoMAE v2, table 1)
_RENAMED = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def load_videomae(located: Located, device: str) -> Any:
    from transformers import VideoMAEForVideoClassification

    if located.path.is_dir():
        model = pretrained(VideoMAEForVideoClassification, located.path, "videomae")
    else:
        model = from_original(_state(located.path)).eval().requires_grad_(False)
    if model.fc_norm is None:
        raise ValueError(
            f"videomae.path={located.path} must pool by the mean of its tokens (use_mean_pooling); use the "
            "named file"
        )
    return model.to(device)


@torch.inference_mode()
def video_features(model: Any, video: np.ndarray, device: str) -> np.ndarray:
    """uint8 f h w 3 -> 1 d: mean of the last tokens, normalised.

    Pixels in 0..1 *without* ImageNet's mean and deviation, squashed to a square, bilinear without
    antialiasing, as published.
    """
    wanted = model.config.num_frames
    if len(video) != wanted:
        raise ValueError(
            f"VideoMAE reads clips of {wanted} frames, got {len(video)}; cut the videos and the references "
            f"to {wanted}"
        )
    x = F.interpolate(
        pixels(video), size=(model.config.image_size,) * 2, mode="bilinear", align_corners=False
    )
    return model.fc_norm(model.videomae(x[None].to(device)).last_hidden_state.mean(1)).double().cpu().numpy()


def from_original(
    state: dict[str, Tensor], num_heads: int | None = None, image_size_px: int = 224, num_frames: int = 16
) -> Any:
    """A transformers VideoMAEForVideoClassification with the tensors of the authors' VisionTransformer."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    projection = state["patch_embed.proj.weight"]  # d 3 tubelet patch patch
    width, depth = (
        len(projection),
        1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
    )
    config = VideoMAEConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=num_heads or _HEADS[width],
        image_size=image_size_px,
        intermediate_size=len(state["blocks.0.mlp.fc1.weight"]),
        patch_size=projection.shape[-1],
        tubelet_size=projection.shape[2],
        num_frames=num_frames,
        use_mean_pooling=True,
        layer_norm_eps=1e-6,
        id2label={i: str(i) for i in range(len(state["head.weight"]))},
    )
    model = VideoMAEForVideoClassification(config)
    fused = "videomae.encoder.layer.0.attention.attention.q_bias" in model.state_dict()
    model.load_state_dict(_renamed(state, fused))
    return model


def _renamed(state: dict[str, Tensor], fused: bool) -> dict[str, Tensor]:
    """``fused``: the bias names of older transformers, ``q_bias`` and ``v_bias``."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("blocks."):
            _, i, rest = key.split(".", 2)
            out |= {
                f"videomae.encoder.layer.{i}.{name}": tensor
                for name, tensor in _block(rest, value, fused).items()
            }
        else:
            out[
                key.replace("patch_embed.proj", "videomae.embeddings.patch_embeddings.projection").replace(
                    "head.", "classifier."
                )
            ] = value
    return out


def _block(name: str, value: Tensor, fused: bool) -> dict[str, Tensor]:
    """One tensor of a transformer block; the fused projection becomes three."""
    if name == "attn.qkv.weight":
        return {
            f"attention.attention.{part}.weight": w
            for part, w in zip(("query", "key", "value"), value.chunk(3), strict=True)
        }
    if name in ("attn.q_bias", "attn.v_bias"):
        return {
            f"attention.attention.{name[5:] if fused else {'q': 'query', 'v': 'value'}[name[5]] + '.bias'}": value  # noqa: E501
        }
    module, kind = name.rsplit(".", 1)
    return {f"{_RENAMED[module]}.{kind}": value}


def _state(path: Path) -> dict[str, Tensor]:
    state = read_state(path, "videomae")
    state = next((state[key] for key in ("model", "module") if key in state), state)
    if "patch_embed.proj.weight" not in state or "fc_norm.weight" not in state:
        raise ValueError(
            f"videomae.path={path} must hold the authors' VisionTransformer with mean pooling; get that file"
        )
    return state
