"""Moving pictures of the miniature world, and a second, different set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.toybox.captions import caption
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Family, Mix, rng_of, sample

TOYBOX = Path(__file__).parents[3] / "data" / "toybox"


def scenes(seed: int, num: int) -> tuple[list[Rendered], list[str]]:
    rng = rng_of(seed)
    drawn = [sample(rng, Family.CORE, Mix()) for _ in range(num)]
    return [render(scene) for scene in drawn], [caption(scene, rng).text for scene in drawn]


@pytest.fixture(scope="session")
def world() -> tuple[list[Rendered], list[str]]:
    return scenes(7, 4)


@pytest.fixture(scope="session")
def videos(world: tuple[list[Rendered], list[str]]) -> list[np.ndarray]:
    return [rendered.video[:6] for rendered in world[0]]


@pytest.fixture(scope="session")
def prompts(world: tuple[list[Rendered], list[str]]) -> list[str]:
    return world[1]


@pytest.fixture(scope="session")
def toybox() -> str:
    return str(TOYBOX)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CLIPModel of random weights over the toybox's words, 32 px; its folder as transformers writes
    it."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    tokens = {
        "vocab_size": 401,
        "max_position_embeddings": 16,
        "bos_token_id": 399,
        "eos_token_id": 400,
        "pad_token_id": 400,
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | tokens,
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(TOYBOX / "tokenizer").save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real ViTModel of random weights, 32 px."""
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def noisy() -> Callable[[list[np.ndarray], float], list[np.ndarray]]:
    """Independent noise per frame, ``sigma`` of full scale."""

    def spoil(videos: list[np.ndarray], sigma: float) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [
            np.clip(v + rng.normal(0, sigma * 255, v.shape), 0, 255).round().astype(np.uint8) for v in videos
        ]

    return spoil
