"""Real classes, tiny: a Stable-Diffusion-shaped image model of 0.5 M parameters, and a corpus of the
miniature world."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vgen.app  # noqa: F401  # before torch is loaded: threads that wait sleep

if TYPE_CHECKING:
    from vgen.backbones.image_model import ImageModel

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))
        if item.get_closest_marker("clips") and not CLIPS.is_dir():
            item.add_marker(
                pytest.mark.skip(reason=f"needs the real clips at {CLIPS}, which are not part of the project")
            )


@pytest.fixture
def tiny() -> ImageModel:
    """SD-1.5's block structure at a tenth of its width, fixed random weights."""
    from vgen.backbones.blank import Blank, blank

    return blank(Blank.SD15_NARROW, seed=0).freeze()


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips of the miniature world, 8 frames of 64 px."""
    from vgen.data.prepare import Prepare, prepare
    from vgen.data.toybox import ToyboxSource

    out = tmp_path_factory.mktemp("shards") / "toy"
    prepare(
        Prepare(data=ToyboxSource(num_clips=20, seed=5), out=str(out), num_frames=8, num_processes=1),
        lambda *_: None,
    )
    return out
