"""ControlVideo, one-shot, on a tiny real UNet and ControlNet: its size, whose frames are read where, and the
whole way from a clip to its edit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vgen.app import cli
from vgen.app.composed import settings
from vgen.app.config import TrainRun, offer_training
from vgen.app.control_net import Structure
from vgen.app.edit import EditRun, edit
from vgen.app.given_fields import GivenField
from vgen.app.loading import load_backbone
from vgen.app.stacks import StackEntry
from vgen.backbones.blank import Blank, blank, blank_unet, blank_vae
from vgen.backbones.conditioning import Residuals
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import save
from vgen.data.batch import Batch
from vgen.data.clip_files import write_mp4
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.layers.norm import NormScope
from vgen.layers.parallel_attention import ParallelAttention
from vgen.methods import VideoModel, assemble
from vgen.methods._assembly import Part, assemble_stack, beneath
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.methods._video_model import whole
from vgen.methods._wishes import Wish
from vgen.methods.control_net import ControlNets, Shown
from vgen.methods.controlvideo_oneshot import ControlVideoOneShot, StartsFrom
from vgen.training.corpus import Corpus, split
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.preparing import needs_of

SIDE, FRAMES, CPU = 8, 3, torch.device("cpu")
OWN = ControlVideoOneShot(image_norm_scope=NormScope.FRAME)
SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


@torch.no_grad()
def loud(video_model: VideoModel, temporal: float = 0.0) -> VideoModel:
    """With something in the ControlNet's zero convolutions, and in those behind the attention over frames."""
    torch.manual_seed(3)
    for p in video_model.modules["edges"].silent_outputs():
        torch.nn.init.normal_(p, std=0.3)
    for layer in video_model.unet.inserted.values():
        for p in layer.silent_outputs():
            p.copy_(temporal * torch.randn_like(p))
    return video_model


@pytest.fixture
def assembled(model: ImageModel) -> Iterator:
    made: list[VideoModel] = []

    def of(recipe: ControlVideoOneShot, temporal: float = 0.0) -> VideoModel:
        while made:
            made.pop().eject()
        made.append(loud(assemble(recipe, model).to(CPU), temporal))
        return made[0]

    yield of
    for one in made:
        one.eject()


def edges(frames: int = FRAMES) -> Tensor:
    """uint8 1 f h w."""
    draw = torch.Generator().manual_seed(4)
    return torch.randint(0, 2, (1, frames, 4 * SIDE, 4 * SIDE), generator=draw).to(torch.uint8) * 255


def latents(frames: int = FRAMES, seed: int = 1) -> Tensor:
    return torch.randn(1, frames, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def predicted(video_model: VideoModel, x: Tensor, shown: Tensor) -> Tensor:
    encoded = video_model.encode({"caption": ["a red circle"], "edges": shown})
    return video_model.predict(encoded, whole(1), x, torch.tensor([500]))


def test_it_learns_as_much_as_the_released_code() -> None:
    """72,130,240 of Stable Diffusion 1.5: output projections of UNet and ControlNet, attention over frames,
    convolutions."""
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    recipe = ControlVideoOneShot()
    with torch.device("meta"):
        unet, vae = blank_unet(Blank.SD15), blank_vae(Blank.SD15)
        large = ImageModel(unet=unet, vae=vae, text_encoders=[], tokenizer=None, scheduler_config=config)
        video_model = assemble(recipe, large)
    parts = video_model.components().items()
    named = {f"{part}.{name}": p for part, net in parts for name, p in net.named_parameters()}
    found = [sum(p.numel() for n, p in named.items() if fnmatchcase(n, w)) for w in recipe.learns()]
    assert found == [12_402_880, 43_019_200, 10_763_200, 5_944_960]
    assert sum(found) == 72_130_240


def test_the_branch_stands_beside_self_attention_but_in_the_middle_and_the_control_net(assembled) -> None:
    video_model = assembled(OWN)
    inserted = video_model.unet.inserted
    assert inserted
    assert all(isinstance(layer, ParallelAttention) for layer in inserted.values())
    assert not any("mid_block" in path for path in inserted)
    assert not video_model.modules["edges"].inserted


def test_unet_and_control_net_read_the_first_frame(assembled) -> None:
    """What is changed in the last frame is seen in it alone; what is changed in the first one, everywhere."""
    video_model, x, shown = assembled(OWN), latents(), edges()
    before = predicted(video_model, x, shown)
    for of_pictures in (False, True):
        for frame, elsewhere in ((2, False), (0, True)):
            other, seen = x.clone(), shown.clone()
            if of_pictures:
                seen[:, frame] = 255 - seen[:, frame]
            else:
                other[:, frame] += 1
            after = predicted(video_model, other, seen)
            assert not torch.allclose(after[:, frame], before[:, frame])
            assert torch.allclose(after[:, 1], before[:, 1], atol=1e-5) is not elsewhere


def test_norms_of_both_nets_are_pooled_over_frames(assembled) -> None:
    x, shown, heard = latents(), edges(), {}
    for scope in NormScope:
        video_model = assembled(replace(OWN, image_norm_scope=scope, frames=OWN.frames))
        said: list[Residuals] = []
        video_model.modules["edges"].register_forward_hook(lambda _, __, out, said=said: said.append(out))
        heard[scope] = predicted(video_model, x, shown), said[0].mid
    for own, pooled in zip(heard[NormScope.FRAME], heard[NormScope.CLIP], strict=True):
        assert not torch.allclose(own, pooled, atol=1e-4)


def session(video_model: VideoModel, recipe: ControlVideoOneShot, frames: int = FRAMES, **how) -> EditSession:
    usual = {
        "wish": Wish(source=SOURCE, target=TARGET),
        "sampling": Sampling(num_steps=4, guidance=3.0),
        "latents": 0.5 * latents(frames),
        "noise": start_noise(video_model.model, frames, (SIDE, SIDE), 0, CPU, recipe.start()),
        "fields": {"edges": edges(frames)},
    }
    return EditSession(video_model=video_model, **(usual | how))


def test_the_control_net_is_on_forth_and_back(assembled) -> None:
    """Per step once on the way to noise, once on the way back to the clip and once, in two rows, in the
    edit."""
    video_model, rows = assembled(OWN, temporal=0.1), []
    video_model.modules["edges"].register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    done = OWN.edit(session(video_model, OWN))
    assert rows == [1] * 8 + [2] * 4
    again = replace(OWN, fixed_point_steps=3).edit(session(video_model, OWN))
    lost = [(one.reconstruction - 0.5 * latents()).square().mean() for one in (again, done)]
    assert lost[0] < 0.5 * lost[1]
    deaf = OWN.edit(session(video_model, OWN, fields={"edges": 255 - edges()}))
    assert not torch.allclose(deaf.latents, done.latents, atol=1e-3)


def test_shared_noise_is_the_other_start(assembled) -> None:
    """A still control and one noise draw a still clip, and the source is not asked for."""
    recipe = replace(OWN, starts_from=StartsFrom.NOISE)
    video_model, still = assembled(recipe, temporal=0.1), edges(1).expand(1, FRAMES, -1, -1)
    own = session(video_model, recipe, latents=None, fields={"edges": still})
    done = recipe.edit(own)
    assert done.reconstruction is None
    torch.testing.assert_close(done.latents, done.latents[:, :1].expand_as(done.latents))


def test_a_long_clip_is_fused_with_its_key_frames(assembled) -> None:
    video_model = assembled(OWN, temporal=0.1)

    def edited(window: int, share: float = 0.5) -> Tensor:
        recipe = replace(OWN, key_share=share)
        few = Sampling(num_steps=2, guidance=3.0)
        own = session(video_model, recipe, 5, sampling=few)
        own.frames = recipe.frame_schedule(Sliding(num_frames=window))
        return recipe.edit(own).latents

    whole_clip = edited(0)
    assert torch.equal(edited(5), whole_clip)
    fused, apart = edited(3), edited(3, share=0)
    assert not torch.allclose(fused, apart, atol=1e-4)
    assert not torch.allclose(fused, whole_clip, atol=1e-4)


def test_gradients_are_the_same_where_blocks_run_again(model: ImageModel) -> None:
    """Of the UNet, of what is inserted and of the ControlNet."""
    learner = Learner(OWN, model, Optimisation(), seed=0, max_steps=1, beneath=beneath(OWN))
    loud(learner.video_model, temporal=0.1)
    shown = torch.randint(0, 2, (1, 2, 32, 32), dtype=torch.uint8) * 255
    batch = Batch(keys=[("a", 0)], captions=[SOURCE], latents=latents(2))
    batch.fields["edges"] = shown
    found = []
    for again in (False, True):
        if again:
            learner.video_model.enable_gradient_checkpointing()
        learner.train()
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"].backward()
        found.append({name: p.grad for name, p in learner.learning.items()})
        learner.zero_grad()
    assert all(grad is not None and grad.any() for grad in found[0].values())
    torch.testing.assert_close(found[1], found[0])
    learner.video_model.eject()
    model.freeze()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"key_share": 1.0}, "key_share must be 0 or more and below 1, got 1"),
        ({"fixed_point_steps": -1}, "fixed_point_steps must not be negative, got -1"),
    ],
)
def test_impossible_knobs_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlVideoOneShot(**knobs)


def test_steps_of_tuning_are_those_of_the_control() -> None:
    steps = {shown: ControlVideoOneShot(condition=shown).training().max_steps for shown in Shown}
    assert [steps[Shown(name)] for name in ("edges", "depth", "pose", "flow")] == [80, 500, 1500, 300]


def test_a_training_takes_the_steps_of_its_control_unless_told() -> None:
    def asked(**keys: object) -> TrainRun:
        return settings("train", TrainRun, offer_training, {"method": "controlvideo_oneshot", **keys})

    steps = {name: asked(**{"method.condition": name}).trainer.max_steps for name in ("edges", "pose")}
    assert steps == {"edges": 80, "pose": 1500}
    told = asked(**{"method.condition": "pose", "trainer.max_steps": 7})
    assert (told.trainer.max_steps, told.optim.lr) == (7, 3e-5)
    with pytest.raises(ValueError, match=r"key_share must be 0 or more and below 1, got 2"):
        asked(**{"method.key_share": 2})


def test_a_second_net_of_the_same_name_is_refused(model: ImageModel) -> None:
    video_model = assemble(ControlVideoOneShot(condition=Shown.CONTROL), model)
    net = video_model.modules["control"].control_net
    structure = Structure(net=net, pictures=torch.zeros(1, 1, 3, 32, 32))
    with pytest.raises(ValueError, match="has a ControlNet called control of its own; give control=FILE"):
        structure.beside(video_model, latents(1))
    video_model.eject()


def test_without_a_control_net_beneath_it_is_refused(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"net 'edges', but it has unet; put .* stack\.edges\.file=FILE"):
        assemble_stack([Part("", ControlVideoOneShot())], tiny)


# -- from the command line ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model, a ControlNet that is heard as vgen's adapter, and a clip."""
    folder = tmp_path_factory.mktemp("home")
    save(blank(Blank.TOYBOX).freeze(), folder / "image", torch.float32)
    model = load_backbone(str(folder / "image"))
    below = ControlNets()
    video_model = assemble(below, model)
    loud(video_model)
    tensors = {f"edges.{n}": p.detach() for n, p in video_model.modules["edges"].named_parameters()}
    video_model.eject()
    card = Card.of("control_net", below, model, {}, {"steps": 3})
    save_adapter(folder / "net" / "adapter.safetensors", tensors, card)
    clip = np.zeros((5, 64, 64, 3), np.uint8)
    for i, frame in enumerate(clip):
        frame[20:44, 8 + 6 * i : 32 + 6 * i, 0] = 255
    write_mp4(folder / "clip.mp4", clip, 8.0)
    return folder


@pytest.fixture
def train(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    usual = [
        *["method=controlvideo_oneshot", f"backbone={home / 'image'}", "data=clip", "trainer=cpu"],
        *[f"data.video={home / 'clip.mp4'}", f"data.prompt={SOURCE}", "data.window.num_frames=3"],
        *["data.size_px=32", "trainer.preflight=false", "trainer.num_threads=1", "run.name=tuned"],
        *["trainer.checkpoint_every_steps=1", "logger=disabled"],
    ]
    return lambda *more: cli.run("train", [*usual, *more])


def test_a_clip_is_learnt_resumed_and_edited(train, home: Path, capfd: pytest.CaptureFixture) -> None:
    net = f"stack.edges.file={home / 'net'}"
    assert train("trainer.max_steps=1", net) == cli.DONE
    first, _ = load_adapter(home / "runs" / "tuned" / "adapter.safetensors")
    assert train("trainer.max_steps=2", net, "run.resume=auto") == cli.DONE
    second, card = load_adapter(home / "runs" / "tuned" / "adapter.safetensors")
    assert card.summary["steps"] == 2
    assert any(not torch.equal(value, first[name]) for name, value in second.items())
    capfd.readouterr()
    run = asked(home, adapter=str(home / "runs" / "tuned"))
    done = edit(run)
    assert done.video.shape == (FRAMES, 32, 32, 3)
    assert done.report["reconstruction_psnr"] > 0
    given = edit(replace(run, fields=[GivenField(name="edges", file=str(home / "clip.mp4"))]))
    assert not np.array_equal(given.video, done.video), "edges that are given are heard"


def test_to_tune_without_a_control_net_is_refused(train, home: Path, capfd: pytest.CaptureFixture) -> None:
    assert train("trainer.max_steps=1", "run.name=none") == cli.REFUSED
    assert "as stack.edges.file=FILE" in capfd.readouterr().err
    assert not (home / "runs" / "none").exists()


def corpus(home: Path, **how) -> Corpus:
    usual = {"video": str(home / "clip.mp4"), "prompt": SOURCE, "size_px": 32, "window": Window(num_frames=3)}
    return Corpus(**(usual | how))


def test_edges_are_found_in_the_clip_or_given_to_training(home: Path) -> None:
    needs = needs_of(ControlVideoOneShot())
    found = split(corpus(home), 0, 64, needs).train[0, 0].fields["edges"]
    given = split(corpus(home, given={"edges": str(home / "clip.mp4")}), 0, 64, needs).train[0, 0]
    assert found.shape == given.fields["edges"].shape == (3, 32, 32)
    assert set(np.unique(found)) == {0, 255}
    grey = (given.fields["video"].transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(grey - given.fields["edges"]).max() <= 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"video": "", "given": {"edges": "a.npy"}}, "data.given names files of a single clip, got edges"),
        ({"given": {"edge": "a.npy"}}, r"fields are pose, .*, got edge=a\.npy"),
        ({"given": {"edges": "a.npy"}}, r"edges=a\.npy is no file and no folder"),
        ({"given": {"pose": "clip.mp4"}}, r"data\.given\.pose=clip\.mp4 must be float32"),
    ],
)
def test_what_is_given_to_training_is_checked(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: dict, message: str
) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match=message):
        split(corpus(home, **how), 0, 64, needs_of(ControlVideoOneShot()))


def asked(home: Path, **how) -> EditRun:
    usual = {
        "video": str(home / "clip.mp4"),
        "source": SOURCE,
        "target": TARGET,
        "num_frames": FRAMES,
        "size_px": 32,
        "sampling": SamplingOverrides(num_steps=2),
    }
    return EditRun(method=ControlVideoOneShot(), **(usual | how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "edits with a checkpoint tuned on the clip; train one"),
        ({"adapter": "untrained"}, r"put the adapter that brings it beneath, as stack\.edges\.file=FILE"),
        ({"adapter": "untrained", "net": True, "target": ""}, "an edit needs both prompts"),
        (
            {"adapter": "untrained", "net": True, "fields": [GivenField(name="depth", file="depth.npy")]},
            r"depth=depth\.npy is heard by no condition of this checkpoint, which listens to edges",
        ),
        (
            {"adapter": "untrained", "net": True, "fields": [GivenField(name="edges", file="small.npy")]},
            "small.npy has pictures of 16 x 16 px where the clip has 32 x 32",
        ),
    ],
)
def test_mistakes_speak(home: Path, monkeypatch: pytest.MonkeyPatch, how: dict, message: str) -> None:
    monkeypatch.chdir(home)
    np.save(home / "small.npy", np.zeros((3, 16, 16), np.uint8))
    how = {"backbone": str(home / "image"), **how}
    if how.pop("net", False):
        how["stack"] = [StackEntry(name="edges", file=str(home / "net"))]
    with pytest.raises(ValueError, match=message):
        edit(asked(home, **how))
