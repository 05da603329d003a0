"""Laws of Text2LIVE: its losses by their equations, a run from a picture to a painted one, and what is
refused."""

from __future__ import annotations

import math
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
from vgen.app.train import train
from vgen.backbones.absent import no_image_model
from vgen.backbones.clip import load_clip_pair
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.layers.edit_layer import EditLayer, EditLayerSpec
from vgen.methods._painting import distance, likeness, nearly_count, painted, turned_away
from vgen.methods.codef import CoDeF
from vgen.methods.text2live import Text2Live
from vgen.resources import data_dir
from vgen.training.corpus import Corpus
from vgen.training.learner import Learner
from vgen.training.optimisation import Decay, Optimisation
from vgen.training.preflight import preflight
from vgen.training.strategies import TrainerSettings

SOURCE, TARGET = "a large red circle rests on a black background", "a large blue circle"
ROW = Text2Live(target=TARGET, edit_layer=EditLayerSpec(num_scales=3, channels=8), num_views=3)
SIZE = 32


def circle() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    inside = (rows**2 + columns**2 < 100)[..., None]
    return np.where(inside, (220, 40, 40), (0, 0, 0)).astype(np.uint8)


def batch_of(caption: str = SOURCE, epoch: int = 0) -> Batch:
    video = torch.from_numpy(circle()).permute(2, 0, 1)[None, None]
    return Batch(keys=[("clip", epoch)], captions=[caption], video=video)


def learner_of(recipe: Text2Live) -> Learner:
    torch.manual_seed(0)
    return Learner(recipe, no_image_model(), Optimisation(lr=1e-2), seed=0, max_steps=9)


def test_distances_are_angles() -> None:
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert distance(east, east) == 0
    # half of the squared angle
    assert float(distance(east, north)) == pytest.approx((math.pi / 2) ** 2 / 2)
    assert float(turned_away(east, east)) == pytest.approx(0, abs=1e-6)
    assert float(turned_away(east, north)) == pytest.approx(1)
    assert float(turned_away(east, torch.cat([east, -east]))) == pytest.approx(1)


def test_patches_and_counts() -> None:
    patches = torch.rand(1, 5, 7)
    found = likeness(patches)
    torch.testing.assert_close(found, likeness(3 * patches))
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(1, 5))
    assert nearly_count(torch.zeros(4)) == 0
    assert float(nearly_count(torch.ones(4))) == pytest.approx(math.tanh(2.5))


def test_clip_sees_as_its_own_processor_does() -> None:
    """Pictures of its size, and texts, as transformers embeds them."""
    from vgen.metrics.learned.clip_model import load_clip
    from vgen.metrics.learned.weights import Located

    folder = data_dir() / "toybox"
    ours, theirs = load_clip_pair(folder, "clip"), load_clip(Located(folder, ""), "cpu")
    frame = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    seen = ours.pictures(torch.from_numpy(frame).permute(0, 3, 1, 2) / 255)
    unit = torch.nn.functional.normalize(seen, dim=-1).double().numpy()
    np.testing.assert_allclose(unit, theirs.images(frame, 2), atol=1e-5)
    said = torch.nn.functional.normalize(ours.texts([SOURCE, TARGET]), dim=-1).double().numpy()
    np.testing.assert_allclose(said, theirs.texts([SOURCE, TARGET]), atol=1e-5)


def test_it_learns_to_paint() -> None:
    """Pre-flight passes, CLIP's encoders stay, and the loss falls."""
    learner = learner_of(ROW)
    assert preflight(learner, batch_of()) == len(learner.learning)
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 30)
    found = []
    for step in range(30):
        learner.objective.enter(step + 1, 30)
        batch = batch_of(epoch=step)
        out = learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        found.append(float(out["loss"].detach()))
    assert np.mean(found[-8:]) < np.mean(found[:8])


def test_the_whole_picture_is_seen_at_its_steps() -> None:
    learner = learner_of(ROW)
    seen: list[int] = []
    learner.video_model.modules["edit_layer"].register_forward_hook(lambda *_: seen.append(1))
    for step, times in ((0, 2), (1, 1), (75, 2)):
        seen.clear()
        learner.objective.enter(step, 100)
        learner.objective.loss(learner.video_model, batch_of(), Draws(0, [("clip", step)]))
        assert len(seen) == times


def test_the_place_is_where_clip_looks_for_the_words() -> None:
    """It lies between 0 and 1, by the words; and it draws the opacity in its own steps alone."""
    pair = load_clip_pair(data_dir() / "toybox", "clip")
    pixels = torch.from_numpy(circle()).permute(2, 0, 1)[None] / 255
    text = pair.texts(["a large red circle"])[0]
    found = pair.relevance(pixels, text)
    assert found.shape == (1, 64, 64)
    assert found.amin() == 0
    assert found.amax() == 1
    assert not torch.equal(found, pair.relevance(pixels, pair.texts(["a star"])[0]))
    learner = learner_of(replace(ROW, place="a large red circle", bootstrap_steps=5))
    for step, drawn in ((0, True), (4, True), (5, False)):
        learner.objective.enter(step, 9)
        out = learner.objective.loss(learner.video_model, batch_of(), Draws(0, [("clip", step)]))
        assert ("bootstrap" in out) is drawn


def test_without_opacity_the_picture_is_bitwise_itself() -> None:
    """The law of the layer, through bytes."""
    net = EditLayer(ROW.edit_layer)
    torch.nn.init.zeros_(net.out.weight)
    torch.nn.init.constant_(net.out.bias, -200.0)
    clip = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    shown, layer = painted(net, clip)
    assert np.array_equal(shown, clip)
    assert layer.shape == (SIZE, SIZE, 4)
    assert not layer[..., 3].any()


def test_the_papers_rates() -> None:
    optimisation = Optimisation(lr=2.5e-3, decay=Decay.EXPONENTIAL)
    assert optimisation.factor(100, 1000) == pytest.approx(0.99**100)
    assert optimisation.factor(900, 1000) * 2.5e-3 == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("recipe", "batch", "said"),
    [
        (replace(ROW, target=" "), batch_of(), "nothing says what the picture is to show"),
        (ROW, batch_of(""), "nothing says what the picture shows"),
        (
            replace(ROW, edit_layer=EditLayerSpec()),
            batch_of(),
            "is too small for method.edit_layer.num_scales=7",
        ),
        (replace(ROW, clip="nowhere"), batch_of(), "method.clip=nowhere is no folder"),
    ],
)
def test_what_cannot_be_painted(recipe: Text2Live, batch: Batch, said: str) -> None:
    def tried() -> None:
        learner = learner_of(recipe)
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))

    with pytest.raises(ValueError, match=said):
        tried()


def test_an_image_model_without_a_clip_pair(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="is an image model without a CLIP pair"):
        load_clip_pair(tmp_path, "method.clip")


@pytest.mark.parametrize("knobs", [{"num_views": 0}, {"least_piece": 0.0}])
def test_knobs_that_mean_nothing(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="least_piece a share"):
        Text2Live(**knobs)


# -- on the command line -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "circle.png"
    Image.fromarray(circle()).save(path)
    return str(path)


def run_of(picture: str, folder: Path, name: str, steps: int, **more: Any) -> TrainRun:
    quick = {"checkpoint_every_steps": 2, "val_every_steps": 100, "num_threads": 1}
    return TrainRun(
        method=ROW,
        data=Corpus(
            video=picture,
            prompt=SOURCE,
            size_px=SIZE,
            window=Window(num_frames=1),
            batch_size=1,
            val_clips=1,
        ),
        optim=Optimisation(lr=2e-3, ema_decay=0.0),
        trainer=TrainerSettings(max_steps=steps, **quick),
        run=RunSettings(name=name, dir=str(folder), **more),
    )


@pytest.fixture(scope="module")
def painter(picture: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train(run_of(picture, tmp_path_factory.mktemp("runs"), "paint", 4), {}))


def test_a_run_resumes_to_the_bit(painter: str, picture: str, tmp_path: Path) -> None:
    train(run_of(picture, tmp_path, "parts", 2), {})
    parts = train(run_of(picture, tmp_path, "parts", 4, resume=Resume.AUTO), {})
    ours, theirs = (load_file(Path(folder) / "adapter.safetensors") for folder in (parts, painter))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_painted_picture_and_its_layer(painter: str, picture: str, tmp_path: Path) -> None:
    out = edit_files(
        EditRun(method=Text2Live(), adapter=painter, image=picture, out=str(tmp_path / "out")), {}
    )
    shown = {f"edited.{ending}" for ending in ("mp4", "gif", "png")}
    assert {p.name for p in out.iterdir()} == shown | {"layer.png", "side_by_side.mp4", "card.json"}
    with Image.open(out / "layer.png") as layer:
        assert (layer.mode, layer.size) == ("RGBA", (SIZE, SIZE))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapter": ""}, "nothing is learnt yet; train first with 'vgen train method=text2live"),
        ({"canonical": "a.png"}, "takes no canonical picture; give image=FILE or video=FILE"),
        ({"image": ""}, "paints upon a picture or a clip"),
        ({"method": CoDeF(), "image": ""}, "was made by method=text2live, and method=codef shows its own"),
    ],
)
def test_edits_that_cannot_be(more: dict[str, Any], said: str, painter: str, picture: str) -> None:
    with pytest.raises(ValueError, match=said):
        edit(EditRun(**{"method": Text2Live(), "adapter": painter, "image": picture, **more}))
