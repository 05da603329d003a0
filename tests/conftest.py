"""Real classes, tiny: a Stable-Diffusion-shaped image model of 0.5 M parameters, and a corpus of the
miniature world."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import vgen.app  # noqa: F401  # before torch is loaded: threads that wait sleep

if TYPE_CHECKING:
    from torch import Tensor

    from vgen.backbones.image_model import ImageModel
    from vgen.training.job import Job

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


class Killed(BaseException):
    """As by kill -9."""


@pytest.fixture
def killed_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job, int], None]:
    """Fits a job that ends in a step as a killed one does."""
    from vgen.training.learner import Learner
    from vgen.training.run import fit

    def run(job: Job, step: int) -> None:
        learn = Learner.training_step

        def ending(self: Learner, batch: Any, index: int) -> Tensor:
            if self.trainer.global_step == step:
                raise Killed
            return learn(self, batch, index)

        with monkeypatch.context() as ends:
            ends.setattr(Learner, "training_step", ending)
            with pytest.raises(Killed):
                fit(job)

    return run


@pytest.fixture
def goes_on(
    tmp_path: Path, killed_in: Callable[[Job, int], None]
) -> Callable[[Callable[[Path, bool], Job], int], dict[str, Tensor]]:
    """Fits ``job(folder, resume)`` undisturbed, and once killed in a step and resumed: both adapters are the
    same to the bit, and are given."""
    import torch

    from vgen.formats.adapter import load_adapter
    from vgen.training.run import fit

    def run(job: Callable[[Path, bool], Job], step: int) -> dict[str, Tensor]:
        fit(job(tmp_path / "whole", False))
        killed_in(job(tmp_path / "killed", False), step)
        fit(job(tmp_path / "killed", True))
        files = (tmp_path / name / "adapter.safetensors" for name in ("whole", "killed"))
        whole, killed = (load_adapter(file)[0] for file in files)
        assert whole.keys() == killed.keys()
        assert all(torch.equal(value, killed[name]) for name, value in whole.items())
        return whole

    return run
