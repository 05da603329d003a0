"""Prompt-Free Diffusion: its size, a picture in the text's place beside motion and structure, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vgen.app.export import Export, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.given_fields import GivenField, given_fields
from vgen.app.loading import load_backbone, open_checkpoint
from vgen.app.stacks import StackEntry, recipe_of
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.backbones.see_coder import SeeCoder, SeeCoderSpec, see_coder
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.data.detectors import detector
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.formats.see_coder import PREFIX
from vgen.formats.see_coder import export as their_names
from vgen.methods import VideoModel, assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._sampling import Prompt, Sampling, SamplingOverrides, generate
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.control_net import ControlNets
from vgen.methods.prompt_free import PromptFree
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

SMALL = SeeCoderSpec(depths=[1, 1, 2, 1], decoder_layers=1, query_layers=3, local_queries=12)
SIDE, BLANK = 64, "blank:toybox:0"
FEW = Sampling(num_frames=2, num_steps=2, width_px=SIDE, height_px=SIDE)


def pictures(num: int, height: int = SIDE, width: int = SIDE, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 1, 3, height, width), dtype=torch.uint8, generator=draw)


def small(dim: int = 64, **knobs: Any) -> SeeCoder:
    torch.manual_seed(0)
    sizes = {name: getattr(SMALL, name) for name in SMALL.__slots__}
    return SeeCoder(dim, SeeCoderSpec(**sizes | knobs)).eval()


# -- the encoder ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("position_aware", "count"), [(False, 294_114_612), (True, 295_358_004)])
def test_it_is_as_large_as_the_released_one(position_aware: bool, count: int) -> None:
    """Counted in the released code without the norm of the finest stage, which nothing reads."""
    with torch.device("meta"):
        net = see_coder(blank_unet(Blank.SD15), SeeCoderSpec(position_aware=position_aware))
    assert sum(p.numel() for p in net.parameters()) == count


@torch.no_grad()
def test_pictures_of_a_batch_see_each_other_where_they_leak_alone() -> None:
    shown = pictures(2)[:, 0] / 255
    alone, leaking = small(), small(leak=True)
    for net, apart in ((alone, True), (leaking, False)):
        one_by_one = torch.cat([net(shown[:1]), net(shown[1:])])
        assert torch.allclose(net(shown), one_by_one, atol=1e-5) is apart
    torch.testing.assert_close(alone(shown[:1]), leaking(shown[:1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_of_any_picture_are_as_many_and_places_are_silent_at_birth() -> None:
    plain, aware = small(), small(position_aware=True)
    missing = aware.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(name.startswith("qtransformer.pe_layer.") for name in missing)
    for height, width in ((48, 48), (72, 130)):
        shown = pictures(1, height, width)[:, 0] / 255
        assert plain(shown).shape == (1, 16, 64)
        torch.testing.assert_close(plain(shown), aware(shown))


# -- in the text's place -------------------------------------------------------------------------------------
def moved(model: ImageModel, *more: Part) -> VideoModel:
    """Every learnt tensor says something."""
    torch.manual_seed(0)
    video_model = assemble_stack([Part("", PromptFree(encoder=SMALL)), *more], model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (video_model.unet.inserted, *video_model.modules.values()):
            for p in part.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return video_model


@torch.no_grad()
def test_it_draws_along_a_picture_beside_motion_and_structure(tiny: ImageModel) -> None:
    video_model = moved(tiny, Part("motion", AnimateDiff()), Part("edges", ControlNets()))
    assert not video_model.hears_words()

    def drawn(seed: int, prompt: str = "", edge: int = 255) -> torch.Tensor:
        edges = torch.zeros(1, 2, SIDE, SIDE, dtype=torch.uint8)
        edges[..., 16:48] = edge
        fields = {"reference": pictures(1, seed=seed), "edges": edges}
        return generate(video_model, [Prompt(prompt, 0)], FEW, more=fields)

    assert torch.equal(drawn(0), drawn(0, "words"))
    assert not torch.allclose(drawn(0), drawn(1))
    assert not torch.allclose(drawn(0), drawn(0, edge=0))


@torch.no_grad()
def test_what_is_dropped_is_zeros(tiny: ImageModel) -> None:
    video_model = moved(tiny)
    encoded = video_model.encode({"reference": pictures(2)})["text"]
    unheard = encoded.where(torch.tensor([True, False])).clip["text"]
    assert torch.equal(unheard[0], encoded.clip["text"][0])
    assert not unheard[1].any()
    assert unheard.shape == (2, 16, 32)


def test_checkpointing_changes_nothing(tiny: ImageModel) -> None:
    torch.manual_seed(0)
    learner = Learner(PromptFree(encoder=SMALL), tiny, Optimisation(), seed=0, max_steps=1)
    batch = Batch(keys=[("a", 0)], captions=[""], latents=torch.randn(1, 1, 4, 8, 8))
    batch.fields["reference"] = pictures(1)

    def gradients() -> list[torch.Tensor]:
        learner.zero_grad(set_to_none=True)
        loss = learner.objective.undropped().loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]
        loss.backward()
        return [p.grad.clone() for p in learner.learning.values() if p.grad is not None]

    plain = gradients()
    learner.video_model.enable_gradient_checkpointing()
    again = gradients()
    assert len(plain) == len(again) == len(learner.learning)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


# -- files and the command line ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, recipe = load_backbone(BLANK), PromptFree(encoder=SMALL)
    net = moved(model).modules["text"]
    tensors = {f"text.{n}": p.detach() for n, p in net.named_parameters()}
    path = tmp_path_factory.mktemp("run") / "adapter.safetensors"
    save_adapter(path, tensors, Card.of("prompt_free", recipe, model, {}, {}))
    return path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(pictures(1, 90, 120)[0, 0].permute(1, 2, 0).numpy()).save(path)
    return path


def drawn(out: Path, adapter: Path, fields: list[GivenField], **knobs: Any) -> np.ndarray:
    few = SamplingOverrides(num_frames=1, num_steps=1, width_px=SIDE, height_px=SIDE)
    settings = {"backbone": BLANK, "sampling": few, "least_px": 0, **knobs}
    folder = generate_files(GenerateRun(adapter=str(adapter), fields=fields, out=str(out), **settings), {})
    return np.asarray(Image.open(next(folder.glob("*.png"))))


def test_a_picture_is_all_that_is_given(adapter: Path, shown: Path, tmp_path: Path) -> None:
    reference = GivenField(name="reference", file=str(shown))
    ours = drawn(tmp_path / "a", adapter, [reference])
    other = tmp_path / "other.png"
    Image.fromarray(np.arange(80 * 80 * 3, dtype=np.uint8).reshape(80, 80, 3)).save(other)
    assert not np.array_equal(
        ours, drawn(tmp_path / "b", adapter, [GivenField(name="reference", file=str(other))])
    )


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"prompt": "a red circle"}, "hears no words, got prompt.*it listens to reference"),
        ({"negative": "blurry"}, "hears no words"),
        ({"sampling": SamplingOverrides(num_frames=1, num_steps=1, width_px=32, height_px=32)}, "48 x 48"),
    ],
)
def test_what_is_not_heard_is_refused(
    knobs: dict[str, Any], told: str, adapter: Path, shown: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        drawn(tmp_path / "x", adapter, [GivenField(name="reference", file=str(shown))], **knobs)


def test_no_reference_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to draw"):
        drawn(tmp_path / "x", adapter, [])
    module = StackEntry(name="look", file=str(adapter))
    with pytest.raises(ValueError, match=r"hears no words.*it listens to reference"):
        drawn(tmp_path / "y", adapter, [], prompt="x", stack=[module])
    video_model = open_checkpoint(str(adapter), BLANK, "cpu").video_model
    with pytest.raises(ValueError, match="listens to reference; give reference=FILE"):
        given_fields([], video_model, FEW, 8)


def test_other_pictures_and_models_are_refused(tiny: ImageModel) -> None:
    video_model = moved(tiny)
    with pytest.raises(ValueError, match="shows 3 pictures where one is read"):
        video_model.encode({"reference": pictures(1).expand(1, 3, 3, SIDE, SIDE)})
    with pytest.raises(ValueError, match="hears text_time beside them"):
        assemble(PromptFree(encoder=SMALL), blank(Blank.SDXL_NARROW, seed=0))
    with pytest.raises(ValueError, match="four stages"):
        SeeCoderSpec(depths=[2, 2])
    with pytest.raises(ValueError, match="drop is the share"):
        PromptFree(drop=2)


def test_a_released_file_goes_there_and_back(adapter: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.safetensors"
    export(Export(run=str(adapter), out=str(theirs)))
    state = load_file(theirs)
    assert state[f"{PREFIX}imencoder.layers.2.blocks.1.attn.qkv.weight"].shape == (384, 128)
    assert state[f"{PREFIX}imencoder.layers.0.blocks.0.attn.relative_position_index"].shape == (144, 144)
    assert f"{PREFIX}imdecoder.lateral_layers.res3.norm.weight" in state
    export(Export(source=str(theirs), to="vgen", out=str(tmp_path / "ours"), backbone=BLANK))
    before, after = (load_adapter(p) for p in (adapter, tmp_path / "ours" / "adapter.safetensors"))
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert recipe_of(after[1]) == recipe_of(before[1])


@pytest.mark.parametrize(
    ("lost", "told"),
    [("imencoder.layers.", "is no whole SeeCoder"), ("imdecoder.level_embed", "no imdecoder.level_embed")],
)
def test_another_layout_is_refused(lost: str, told: str, adapter: Path, tmp_path: Path) -> None:
    own = {name.removeprefix("text."): value for name, value in load_adapter(adapter)[0].items()}
    theirs = {PREFIX + n: v for n, v in their_names(own).items() if not n.startswith(lost)}
    save_file(theirs, tmp_path / "cut.safetensors")
    cut = Export(source=str(tmp_path / "cut.safetensors"), to="vgen", out=str(tmp_path / "x"), backbone=BLANK)
    with pytest.raises(ValueError, match=told):
        export(cut)


def test_another_image_models_is_refused(adapter: Path, tmp_path: Path) -> None:
    theirs, other = tmp_path / "theirs.safetensors", "blank:sd15_narrow:0"
    export(Export(run=str(adapter), out=str(theirs)))
    with pytest.raises(ValueError, match="no SeeCoder for this image model"):
        export(Export(source=str(theirs), to="vgen", out=str(tmp_path / "x"), backbone=other))


# -- training ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "stills"
    source = ToyboxSource(num_clips=10, seed=5, stills=True)
    wish = Prepare(data=source, out=str(out), num_frames=2, num_processes=1, fields=["reference"])
    prepare(wish, lambda *_: None)
    return out


def job(folder: Path, shards: Path, resume: bool = False, prompts: tuple[str, ...] = ()) -> Job:
    usual: dict[str, Any] = {"val_every_steps": 3, "checkpoint_every_steps": 1, "log_every_steps": 1}
    return Job(
        recipe=PromptFree(encoder=SMALL),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(path=str(shards), window=Window(num_frames=1), batch_size=2, val_clips=2, cache=True),
        optimisation=Optimisation(lr=1e-3, warmup_steps=1, ema_decay=0.9),
        settings=TrainerSettings(max_steps=3, num_threads=1, **usual),
        logger=LoggerSettings(),
        samples=SampleSettings(prompts=list(prompts)),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={"note": "test"},
    )


def test_a_training_that_was_killed_goes_on_as_if_it_had_not(shards: Path, goes_on) -> None:
    assert goes_on(lambda folder, resume: job(folder, shards, resume), 2)


def test_prompts_that_nothing_hears_are_refused_before_the_first_step(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this method listens to \w+ alone; set callbacks=none"):
        fit(job(tmp_path / "run", shards, prompts=("a red circle",)))


def test_the_middle_frame_may_be_a_clips_reference() -> None:
    video = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    assert detector("reference", "middle").see(video).tolist() == [[[[2, 2, 2]]]]
