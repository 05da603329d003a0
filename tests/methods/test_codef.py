"""Laws of CoDeF: what is fitted, on which errors; a run from a clip to a picture and back; and what is
refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vgen.app.config import Resume, RunSettings, TrainRun
from vgen.app.edit import EditRun, edit, edit_files
from vgen.app.loading import Backbone
from vgen.app.show import describe
from vgen.app.train import train
from vgen.backbones.absent import no_image_model
from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.data.clip_files import write_mp4
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.layers.canonical_field import FieldKind, VideoField, VideoFieldSpec
from vgen.layers.hash_grid import HashGridSpec
from vgen.methods._reconstruction import gradient_errors, groups_of, sobel
from vgen.methods.codef import CoDeF
from vgen.methods.tune_a_video import TuneAVideo
from vgen.training.corpus import Corpus
from vgen.training.learner import Learner
from vgen.training.optimisation import Decay, Optimisation
from vgen.training.preflight import preflight
from vgen.training.strategies import TrainerSettings

FEW = HashGridSpec(num_levels=4, log2_entries=9, base_resolution=8)
SMALL = VideoFieldSpec(deformation=FEW, canonical=FEW, width=16, deformation_layers=2)
SIZE, FRAMES = 24, 5


def moving() -> np.ndarray:
    """A square that goes right, uint8 f h w 3."""
    video = np.full((FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    for i, frame in enumerate(video):
        frame[8:16, 3 + 2 * i : 11 + 2 * i] = (220, 60, 20)
    return video


def batch_of(video: np.ndarray, **fields: torch.Tensor) -> Batch:
    frames = torch.from_numpy(video).permute(0, 3, 1, 2)[None]
    at = torch.arange(len(video))[None]
    return Batch(keys=[("clip", 0)], captions=[""], video=frames, fields=fields, at=at)


def learner_of(recipe: CoDeF, lr: float = 1e-2) -> Learner:
    torch.manual_seed(0)
    return Learner(recipe, no_image_model(), Optimisation(lr=lr, weight_decay=0.0), seed=0, max_steps=9)


@pytest.mark.parametrize(("kind", "count"), [(FieldKind.HASH, 18_932_736), (FieldKind.FOURIER, 640_069)])
def test_as_many_parameters_as_released(kind: FieldKind, count: int) -> None:
    """Fourier: the released classes' own, counted; hash: tiny-cuda-nn's tables and layers, by its rules."""
    with torch.device("meta"):
        field = VideoField(VideoFieldSpec(kind=kind))
    assert sum(p.numel() for p in field.parameters()) == count


def test_gradients_are_sobels() -> None:
    """Of a ramp along columns 8 times its slope, inside; and the error is their mean difference."""
    columns = torch.arange(6.0).expand(5, 6)
    inner = sobel(columns[None])[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.stack([torch.full((3, 4), 8.0), torch.zeros(3, 4)]))
    colours, mask = torch.rand(1, 30, 3), torch.ones(1, 30, dtype=torch.bool)
    assert not gradient_errors(colours, colours[0], mask, (5, 6)).any()
    assert not gradient_errors(colours + 1, colours[0], mask & False, (5, 6)).any()


@pytest.mark.parametrize(("kind", "lr"), [(FieldKind.HASH, 1e-2), (FieldKind.FOURIER, 1e-3)])
def test_it_fits_the_clip(kind: FieldKind, lr: float) -> None:
    """Pre-flight passes, and the error falls to less than a half."""
    learner = learner_of(CoDeF(video_field=replace(SMALL, kind=kind)), lr)
    assert preflight(learner, batch_of(moving())) == len(learner.learning)
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 60)
    found = []
    for step in range(60):
        batch = batch_of(moving())
        batch.keys = [("clip", step)]
        learner.objective.enter(step, 60)
        out = learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        found.append(float(out["colour"].detach()))
    assert np.mean(found[-10:]) < 0.5 * np.mean(found[:5])


def test_the_way_of_the_flow_keeps_the_canonical_point() -> None:
    """A deformation that undoes a known motion costs nothing, one that stays costs the motion."""
    recipe = CoDeF(video_field=replace(SMALL, kind=FieldKind.FOURIER), gradient=0.0)
    learner = learner_of(recipe)
    flow = torch.zeros(1, FRAMES - 1, 2, SIZE, SIZE)
    flow[:, :, 0] = 2.0
    keys = [("clip", epoch) for epoch in range(8)]

    def error(bend: Any) -> list[float]:
        field = learner.video_model.modules["field"]
        field.deformations[0].forward = bend  # type: ignore[union-attr, index]
        out = []
        for key in keys:
            batch = batch_of(moving(), flow=flow)
            batch.keys = [key]
            out.append(
                float(learner.objective.loss(learner.video_model, batch, Draws(0, [key]))["flow"].detach())
            )
        return [value for value in out if value]

    def back(points: torch.Tensor, at: Any, weights: Any = None) -> torch.Tensor:
        return points.new_tensor([0.0, -2.0 / SIZE * at.index]).expand_as(points)

    def still(points: torch.Tensor, at: Any, weights: Any = None) -> torch.Tensor:
        return torch.zeros_like(points)

    assert max(error(back), default=0.0) < 1e-6
    assert error(still) == pytest.approx([1.0 / SIZE] * len(error(still)))  # 2 px along one axis of two


def test_groups_are_where_the_mask_says() -> None:
    mask = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    assert groups_of(mask, 2, 0, 4).int().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0]]
    numbers = torch.tensor([[[[0, 1], [2, 2]]]], dtype=torch.uint8)
    assert groups_of(numbers, 3, 0, 4).int().sum(0).tolist() == [1, 1, 1, 1]  # none overlaps another
    with pytest.raises(ValueError, match="counts from 0 to 2; raise it"):
        groups_of(mask, 3, 0, 4)


def test_a_group_learns_its_own_pixels() -> None:
    recipe = CoDeF(video_field=replace(SMALL, num_groups=2))
    learner = learner_of(recipe)
    mask = torch.from_numpy((moving()[..., 0] > 100).astype(np.uint8))[None]
    batch = batch_of(moving(), mask=mask)
    assert recipe.reads() == {"flow": True, "mask": False}
    assert preflight(learner, batch) == len(learner.learning)
    assert learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["background"] > 0


def test_levels_wait_for_their_steps() -> None:
    """Before the annealing begins the deformation's table has no gradient."""
    learner = learner_of(CoDeF(video_field=SMALL))
    table = learner.learning["field.deformations.0.grid.table"]
    for step, heard in ((0, False), (39, False), (70, True)):
        learner.zero_grad()
        learner.objective.enter(step, 100)
        batch = batch_of(moving())
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"].backward()
        assert table.grad is not None
        assert bool(table.grad.any()) is heard


def test_the_papers_rates() -> None:
    optimisation = Optimisation(lr=1e-3, decay=Decay.HALVES)
    factors = [optimisation.factor(step, 10_000) for step in (0, 2499, 2500, 5000, 7500, 9999)]
    assert factors == [1, 1, 0.5, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (batch_of(moving()[:1]), "a clip of one frame has no motion to fit"),
        (
            batch_of(moving(), flow=torch.zeros(1, FRAMES - 1, 2, SIZE, SIZE // 2)),
            f"flow has {SIZE // 2} x {SIZE} px where the clip has {SIZE} x {SIZE}",
        ),
        (
            batch_of(moving(), mask=torch.zeros(1, FRAMES, SIZE // 2, SIZE, dtype=torch.uint8)),
            f"mask has {SIZE} x {SIZE // 2} px",
        ),
        (
            Batch(
                keys=[("a", 0), ("b", 0)],
                captions=["", ""],
                video=torch.zeros(2, 2, 3, SIZE, SIZE, dtype=torch.uint8),
            ),
            "a field holds one clip, and a batch has 2",
        ),
    ],
)
def test_what_no_field_can_be_fitted_to(batch: Batch, said: str) -> None:
    learner = learner_of(CoDeF(video_field=SMALL))
    with pytest.raises(ValueError, match=said):
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))


def test_a_window_of_a_longer_clip() -> None:
    learner, batch = learner_of(CoDeF(video_field=SMALL)), batch_of(moving())
    batch.at = torch.arange(3, 3 + FRAMES)[None]
    with pytest.raises(ValueError, match="begins at frame 3"):
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))


@pytest.mark.parametrize("knobs", [{"margin": 0.5}, {"flow": -1.0}])
def test_knobs_that_mean_nothing(knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        CoDeF(**knobs)  # type: ignore[arg-type]


# -- on the command line -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4", moving(), 8.0))


def run_of(clip: str, folder: Path, name: str, steps: int, **more: Any) -> TrainRun:
    quick = {"checkpoint_every_steps": 3, "val_every_steps": 100, "num_threads": 1}
    return TrainRun(
        method=CoDeF(video_field=SMALL),
        data=Corpus(
            video=clip, size_px=SIZE, window=Window(num_frames=FRAMES), batch_size=1, val_clips=1, cache=True
        ),
        optim=Optimisation(lr=5e-3, weight_decay=0.0, ema_decay=0.0),
        trainer=TrainerSettings(max_steps=steps, **quick),
        run=RunSettings(name=name, dir=str(folder), **more),
    )


@pytest.fixture(scope="module")
def fitted(clip: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    return str(train(run_of(clip, folder, "fit", 40), {}))


def test_a_run_opens_no_image_model_and_resumes_to_the_bit(
    clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(_: Backbone) -> ImageModel:
        raise AssertionError("an image model is opened")

    monkeypatch.setattr(Backbone, "open", opened)
    whole = train(run_of(clip, tmp_path, "whole", 6), {})
    shutil.copytree(whole, tmp_path / "parts")
    (tmp_path / "parts" / "adapter.safetensors").unlink()
    steps = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))
    shutil.rmtree(steps[-1])  # as if killed after the third step
    parts = train(run_of(clip, tmp_path, "parts", 6, resume=Resume.AUTO), {})
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (parts, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    card = load_adapter(whole / "adapter.safetensors")[1]
    assert card.backbone_source == "none"
    assert card.summary["num_frames"] == FRAMES


def test_the_picture_goes_out_and_comes_back_as_the_clip(fitted: str, clip: str, tmp_path: Path) -> None:
    """As it went out it shows the clip again, nearly; repainted, it repaints every frame."""
    run = EditRun(method=CoDeF(), adapter=fitted, out=str(tmp_path / "out"), video=clip)
    out = edit_files(run, {})
    shown = {f"reconstruction.{ending}" for ending in ("mp4", "gif", "png")}
    assert {p.name for p in out.iterdir()} == shown | {"canonical.png", "side_by_side.mp4", "card.json"}
    with Image.open(out / "canonical.png") as picture:
        assert picture.size == (28, 28)  # a tenth beyond each edge
    again = edit(replace(run, canonical=str(out / "canonical.png")))
    plain = edit(run)
    assert "reconstruction_psnr" in plain.report
    assert np.abs(again.video.astype(int) - plain.video).mean() < 6
    Image.new("RGB", (56, 56), (0, 0, 255)).save(tmp_path / "blue.png")
    blue = edit(replace(run, canonical=str(tmp_path / "blue.png")))
    assert (blue.video == (0, 0, 255)).all()
    blue.save(tmp_path / "blue")
    assert (tmp_path / "blue" / "edited.mp4").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapter": ""}, "nothing is learnt yet; train first with 'vgen train method=codef"),
        ({"adapter": "untrained"}, "nothing is learnt yet"),
        ({"target": "a blue square"}, "hears nothing of target in an edit"),
        ({"canonical": "nowhere.png"}, "is no picture and no folder"),
        ({"canonical": "WIDE"}, "is 40 x 20 px, and the one that was given out 28 x 28"),
        ({"canonical": "TWO"}, "canonical has 2 pictures, and the checkpoint 1 groups"),
        ({"mask": "mask.npy"}, "has one group, which needs no mask"),
        ({"method": CoDeF(margin=0.2)}, "was trained with other knobs"),
    ],
)
def test_edits_that_cannot_be(more: dict[str, Any], said: str, fitted: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    (tmp_path / "two").mkdir()
    for i in range(2):
        Image.new("RGB", (28, 28)).save(tmp_path / "two" / f"canonical_{i}.png")
    files = {"WIDE": tmp_path / "wide.png", "TWO": tmp_path / "two"}
    wished = {
        key: str(files.get(value, value)) if key == "canonical" else value for key, value in more.items()
    }
    with pytest.raises(ValueError, match=said):
        edit(EditRun(**{"method": CoDeF(), "adapter": fitted, **wished}))


def test_groups_come_back_where_the_mask_says(tmp_path: Path) -> None:
    """One picture each goes out, and each is seen inside its own mask alone."""
    recipe = CoDeF(video_field=replace(SMALL, num_groups=2))
    shown = {"num_frames": FRAMES, "height_px": SIZE, "width_px": SIZE}
    card = Card.of("codef", recipe, no_image_model(), {}, shown)
    save_adapter(tmp_path / "adapter.safetensors", learner_of(recipe).learning, card)
    run = EditRun(method=CoDeF(), adapter=str(tmp_path / "adapter.safetensors"))
    with pytest.raises(ValueError, match="has 2 groups, and nothing says where they are; give mask=FILE"):
        edit(run)
    mask = (moving()[..., 0] > 100).astype(np.uint8) * 255
    np.save(tmp_path / "mask.npy", mask)
    run = replace(run, mask=str(tmp_path / "mask.npy"))
    assert list(edit(run).pictures) == ["canonical_0", "canonical_1"]
    for i, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
        Image.new("RGB", (28, 28), colour).save(tmp_path / f"canonical_{i}.png")
    video = edit(replace(run, canonical=str(tmp_path))).video
    assert (video[mask == 0] == (255, 0, 0)).all()
    assert (video[mask > 0] == (0, 0, 255)).all()


def test_a_single_clip_has_no_masks(clip: str, tmp_path: Path) -> None:
    run = run_of(clip, tmp_path, "groups", 3)
    run.method = CoDeF(video_field=replace(SMALL, num_groups=2))
    with pytest.raises(ValueError, match=r"a single clip has no mask, which is required: give data.given="):
        train(run, {})


def test_canonical_pictures_are_for_methods_that_give_them_out(fitted: str) -> None:
    words = {"source": "a square", "target": "a circle"}
    with pytest.raises(ValueError, match="no mask; those that take one are codef"):
        edit(EditRun(method=TuneAVideo(), canonical="a.png", **words))


def test_an_image_model_named_in_vain(clip: str, tmp_path: Path) -> None:
    run = run_of(clip, tmp_path, "vain", 3)
    run.backbone = Backbone(path="somewhere")
    with pytest.raises(ValueError, match=r"stands on no image model, and backbone.path=somewhere names one"):
        train(run, {})


def test_the_row_says_that_it_stands_alone() -> None:
    told = describe("codef", {"video_field.kind": "fourier"}, "sd15")
    assert "image model: none is opened" in told
    assert "module field: VideoField, 640,069 parameters" in told
