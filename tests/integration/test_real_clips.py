"""The whole way on real video: prepare, train, export, generate, at Stable Diffusion's block structure with
narrow random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vgen.app.config import RunSettings, TrainRun
from vgen.app.edit import EditRun, edit
from vgen.app.export import Export, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.loading import UNTRAINED, Backbone
from vgen.app.train import train
from vgen.attention.mutual import Mutual
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model_folder import save
from vgen.data.clips import Window
from vgen.data.folder_source import FolderSource
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.diffusion.inversion import NullText
from vgen.diffusion.step_window import StepWindow, Unit
from vgen.formats.adapter import load_adapter
from vgen.methods import Recipe
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.masactrl import MasaCtrl
from vgen.methods.vid2vid_zero import Vid2VidZero
from vgen.methods.video_p2p import VideoP2P
from vgen.training.corpus import Corpus
from vgen.training.optimisation import Optimisation
from vgen.training.strategies import TrainerSettings

pytestmark = pytest.mark.clips
CLIPS = Path(__file__).parents[3] / "shared" / "clips"
CAPTIONS = {"man-skiing": "a man is skiing", "rabbit-watermelon": "a rabbit is eating a watermelon"}


def test_prepare_train_export_generate(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, caption in CAPTIONS.items():
        shutil.copy(CLIPS / "video" / f"{name}.mp4", videos)
        (videos / f"{name}.txt").write_text(caption)
    packing = Prepare(
        data=FolderSource(path=str(videos)),
        out=str(tmp_path / "shards"),
        fps=8,
        num_frames=4,
        size_px=64,
        num_processes=1,
    )
    prepare(packing, lambda *_: None)
    reader = ShardReader(tmp_path / "shards")
    assert len(reader) >= 4
    assert reader[0].video.shape == (4, 64, 64, 3)
    assert {reader[i].caption for i in range(len(reader))} == set(CAPTIONS.values())

    model = tmp_path / "sd15_narrow"
    save(blank(Blank.SD15_NARROW, seed=0).freeze(), model, torch.float32)
    run = TrainRun(
        method=AnimateDiff(),
        backbone=Backbone(path=str(model)),
        run=RunSettings(name="real", dir=str(tmp_path / "runs")),
        optim=Optimisation(lr=1e-3, ema_decay=0.9),
        data=Corpus(
            path=str(tmp_path / "shards"), window=Window(num_frames=4), batch_size=1, val_clips=1, cache=True
        ),
        trainer=TrainerSettings(max_steps=20, val_every_steps=20, checkpoint_every_steps=20, num_threads=1),
    )
    folder = train(run, {"note": "test"})
    tensors, card = load_adapter(folder / "adapter.safetensors")
    assert (card.summary["steps"], card.summary["clips"]) == (20, 20)
    assert len(tensors) == 20 * 26
    assert any(v.abs().max() > 0 for n, v in tensors.items() if "proj_out" in n), (
        "the modules must have left their silent birth"
    )

    Console().print(export(Export(run=str(folder), to="diffusers", out=str(tmp_path / "adapter"))))
    Console().print(export(Export(run=str(folder), to="animatediff", out=str(tmp_path / "mm.ckpt"))))
    sampling = Sampling(num_frames=4, num_steps=2, width_px=64, height_px=64)
    wish = GenerateRun(
        prompt="a man is skiing", adapter=str(folder), sampling=sampling, out=str(tmp_path / "clips")
    )
    clips = generate_files(wish, {})
    assert len(list(clips.glob("*.mp4"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        MasaCtrl(mutual=Mutual(window=StepWindow(start=1, end=2, unit=Unit.STEP))),
        Vid2VidZero(null_text=NullText(inner_steps=1)),
        VideoP2P(null_text=NullText(inner_steps=1)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_edit_a_real_clip(method: Recipe, tmp_path: Path) -> None:
    """The model has other words than these, so that a word is several tokens; random weights draw no bear."""
    run = EditRun(
        method=method,
        video=str(CLIPS / "video" / "man-skiing.mp4"),
        source=CAPTIONS["man-skiing"],
        target="a bear is skiing",
        blend=["skiing"] if isinstance(method, MasaCtrl) else [],
        backbone=f"blank:{Blank.SD15_NARROW.value}:0",
        adapter=UNTRAINED if isinstance(method, VideoP2P) else "",
        num_frames=4,
        size_px=64,
        sampling=SamplingOverrides(num_steps=2),
    )
    done = edit(run)
    assert done.video.shape == done.source.shape == (4, 64, 64, 3)
    assert done.report["seconds"] > 0
    assert (done.save(tmp_path / "edit") / "edited.mp4").is_file()
