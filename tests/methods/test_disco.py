"""DisCo: its size, what it is made of, what it hears and drops, its stages as commands, what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models import ControlNetModel
from PIL import Image

from vgen.app import cli
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.control_net import LatentHint, encoder_copy, latent_encoder_copy
from vgen.backbones.image_model import ImageModel
from vgen.backbones.picture_tokens import TokenProjection, normed_tokens, unseen_tokens
from vgen.backbones.sites import sites
from vgen.conditions.pictures import picture_of
from vgen.data.clip_files import write_mp4
from vgen.data.detectors import detector
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.guidance import POSE, TEXT
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.layers.norm import NormScope
from vgen.layers.temporal_attention import AttentionBeforeWords
from vgen.layers.temporal_conv import ResidualTemporalConv
from vgen.methods import VideoModel, assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.disco import BACKGROUND, DisCo, DisCoTemporal, Lesson
from vgen.toybox.sampling import Mix
from vgen.training.learner import Learner, refuse_mute
from vgen.training.optimisation import Optimisation

SIDE, FRAMES = 64, 3


@pytest.fixture
def toybox() -> ImageModel:
    """It has a vision tower."""
    return blank(Blank.TOYBOX, seed=0).freeze()


def stir(video_model: VideoModel) -> VideoModel:
    """Everything beside the image model says something."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        beside = [net.inserted for net in video_model.nets().values()]
        for p in [p for part in (*beside, *video_model.modules.values()) for p in part.parameters()]:
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return video_model


def heard(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    pose = torch.rand(1, FRAMES, 1, 17, 3, generator=draw)
    pose[..., 2] = 1

    def picture() -> torch.Tensor:
        return torch.randint(0, 256, (1, 1, 3, SIDE, SIDE), generator=draw).byte()

    return {"reference": picture(), "background": picture(), "pose": pose}


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# -- its size ------------------------------------------------------------------------------------------------
def test_it_is_as_large_as_the_released_code() -> None:
    """diffusers' ControlNet, one whose picture layers are a copy of the first convolution, and a matrix."""
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
        theirs = ControlNetModel.from_unet(unet)
        pose, background = encoder_copy(unet, 8), latent_encoder_copy(unet)
        matrix = TokenProjection(1024, 768)
    assert count(pose) == count(theirs) == 361_279_120
    layers = count(theirs.controlnet_cond_embedding)
    assert count(background) == count(theirs) - layers + count(unet.conv_in) == 360_204_480
    assert count(matrix) == 786_432


def test_layers_over_frames_are_as_large_as_the_released_ones() -> None:
    """Of the UNet: 22 convolutions with their norms, and 16 attentions without theirs, which never acts."""
    any_model: Any = None
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
        model = ImageModel(
            unet=unet, vae=any_model, text_encoders=[], tokenizer=any_model, scheduler_config={}
        )
        layers = list(assemble_temporal(model).values())
    convolutions = [layer for layer in layers if isinstance(layer, ResidualTemporalConv)]
    attentions = [layer for layer in layers if isinstance(layer, AttentionBeforeWords)]
    widths = {320: (5, 5), 640: (5, 5), 1280: (12, 6)}
    assert sum(map(count, convolutions)) == sum(n * (3 * c * c + 3 * c) for c, (n, _) in widths.items())
    assert sum(map(count, attentions)) == sum(n * (4 * c * c + c) for c, (_, n) in widths.items())


def assemble_temporal(model: ImageModel) -> dict[str, torch.nn.Module]:
    """The layers that the temporal stage inserts into the UNet, by their sites."""
    own = [one for one in DisCoTemporal().insertions() if one.into == "unet"]
    hits = [(site, one.layer) for one in own for site in sites(model.unet) if one.where(site)]
    return {
        site.path: layer.build(site, model.unet.get_submodule(site.path), ForwardContext())
        for site, layer in hits
    }


# -- what it is made of --------------------------------------------------------------------------------------
@torch.no_grad()
def test_at_birth_its_nets_say_nothing(toybox: ImageModel) -> None:
    assert toybox.image_encoder is not None
    tokens = toybox.image_encoder.visual_projection(normed_tokens(toybox, heard()["reference"][:, 0]))
    x, t = torch.randn(1, FRAMES, 4, 16, 16), torch.tensor([400])
    expected = toybox.unet(x[0], t, tokens.expand(FRAMES, -1, -1)).sample
    video_model = assemble(DisCoTemporal(image_norm_scope=NormScope.FRAME), toybox)
    encoded = video_model.encode(video_model.prepare({**heard(), "canvas": (FRAMES, SIDE, SIDE)}))
    torch.testing.assert_close(encoded[TEXT].clip["tokens"], tokens)
    out = video_model.predict(encoded, [frozenset()], x, t)
    torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_is_two_control_nets_and_a_unet_that_hear_a_person(toybox: ImageModel) -> None:
    video_model = stir(assemble(DisCo(), toybox))
    fields = video_model.prepare({**heard(), "canvas": (FRAMES, SIDE, SIDE)})
    x, t = torch.randn(1, FRAMES, 4, 16, 16), torch.tensor([400])
    out = video_model.predict(video_model.encode(fields), [frozenset()], x, t)
    states = normed_tokens(toybox, fields["reference"][:, 0])
    tokens = video_model.modules[TEXT].linear(states).expand(FRAMES, -1, -1)
    behind = toybox.encode(fields["background"].float() / 127.5 - 1)[0].expand(FRAMES, -1, -1, -1)
    shown = {POSE: picture_of("pose", fields["pose"], SIDE, SIDE)[0], BACKGROUND: behind}
    said = [video_model.modules[n].control_net(x[0], t, tokens, s) for n, s in shown.items()]
    down = [a + b for a, b in zip(*(one.down_block_res_samples for one in said), strict=True)]
    mid = said[0].mid_block_res_sample + said[1].mid_block_res_sample
    expected = toybox.unet(
        x[0], t, tokens, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample
    torch.testing.assert_close(out[0], expected, atol=1e-5, rtol=1e-5)


def test_latents_go_through_a_copy_of_the_first_convolution(tiny: ImageModel) -> None:
    net = latent_encoder_copy(tiny.unet)
    assert isinstance(net.controlnet_cond_embedding, LatentHint)
    assert torch.equal(net.controlnet_cond_embedding.conv_in.weight, tiny.unet.conv_in.weight)


@torch.no_grad()
def test_frames_are_attended_between_pixels_and_words(tiny: ImageModel) -> None:
    """And in residual blocks a norm over the clip, SiLU and a convolution follow the second convolution."""
    unet = stir(assemble(DisCoTemporal(), tiny)).unet
    unet.context.num_frames = FRAMES
    path = "down_blocks.0.attentions.0.transformer_blocks.0"
    guest, frames = unet.image_unet, unet.inserted
    block, attend = guest.get_submodule(path), frames[f"{path}.attn1".replace(".", "/")].attn_temp
    tokens, words = torch.randn(2 * FRAMES, 9, guest.config["block_out_channels"][0]), torch.randn(6, 4, 32)

    def over_frames(x: torch.Tensor) -> torch.Tensor:
        return attend(x.unflatten(0, (2, FRAMES)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)

    out = block(tokens, encoder_hidden_states=words)
    unet.eject()
    h = tokens + block.attn1(block.norm1(tokens))
    h = h + over_frames(block.norm2(h))
    h = h + block.attn2(block.norm2(h), words)
    torch.testing.assert_close(out, h + block.ff(block.norm3(h)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_residual_convolution_sees_the_frames_beside_it() -> None:
    layer = ResidualTemporalConv(8, 4, 3, ForwardContext(num_frames=FRAMES))
    x = torch.randn(2 * FRAMES, 8, 5, 5)
    assert torch.equal(layer(x), x)
    torch.nn.init.normal_(layer.conv_temporal.weight)
    clip = x.unflatten(0, (2, FRAMES)).transpose(1, 2)
    normed = torch.nn.functional.silu(layer.norm_temporal(clip))
    middle = torch.einsum("oik,bikhw->bohw", layer.conv_temporal.weight, normed)
    torch.testing.assert_close(layer(x).unflatten(0, (2, FRAMES))[:, 1], clip[:, :, 1] + middle)


@torch.no_grad()
def test_clips_follow_person_background_and_pose(toybox: ImageModel) -> None:
    video_model = stir(assemble(DisCo(), toybox))
    sampling = Sampling(num_frames=FRAMES, num_steps=2, guidance=1.5)

    def made(**fields: torch.Tensor) -> torch.Tensor:
        return generate(video_model, [Prompt("", 0)], sampling, more={**heard(), **fields})

    alone = made()
    assert torch.equal(alone, made())
    for name, other in heard(1).items():
        assert not torch.allclose(alone, made(**{name: other}), atol=1e-2), name


@torch.no_grad()
def test_a_row_without_its_person_sees_the_mean_colour(toybox: ImageModel) -> None:
    video_model = stir(assemble(DisCo(), toybox))
    encoded = video_model.encode(video_model.prepare({**heard(), "canvas": (FRAMES, SIDE, SIDE)}))
    dropped = encoded[TEXT].where(torch.tensor([False])).clip["tokens"]
    torch.testing.assert_close(dropped, video_model.modules[TEXT](unseen_tokens(toybox)))
    assert DisCo().guidance(1.5).branches()[0].dropped == {TEXT}
    assert DisCo().sampling().guidance == 1.5
    assert DisCo(drop=0).sampling().guidance == 3.0
    assert not DisCo(drop=0).dropout()


def test_no_words_are_heard_beside_a_person(toybox: ImageModel) -> None:
    video_model = assemble_stack([Part("", DisCo()), Part("motion", AnimateDiff())], toybox)
    assert not video_model.hears_words()


def test_one_person_may_be_learnt_upon_layers_over_frames(toybox: ImageModel) -> None:
    recipe, beneath = DisCo(lesson=Lesson.SUBJECT), [Part("moving", DisCoTemporal())]
    learner = Learner(recipe, toybox, Optimisation(), seed=0, max_steps=1, beneath=beneath)
    assert not any(POSE in name or "inserted" in name for name in learner.learning)
    assert all(".attn2." in name for name in learner.learning if name.startswith("unet."))


def test_one_person_is_not_learnt_upon_a_net_of_poses_that_says_nothing(toybox: ImageModel) -> None:
    learner = Learner(DisCo(lesson=Lesson.SUBJECT), toybox, Optimisation(), seed=0, max_steps=1)
    with pytest.raises(ValueError, match=r"the net 'pose' says nothing.*as stack\.pose\.file=RUN"):
        refuse_mute(learner)


def test_checkpointed_gradients_are_the_plain_ones(toybox: ImageModel) -> None:
    video_model = stir(assemble(DisCoTemporal(), toybox))
    fields = video_model.prepare({**heard(), "canvas": (FRAMES, SIDE, SIDE)})
    learnt = [next(net.inserted.parameters()) for net in video_model.nets().values()]
    learnt.append(video_model.modules[TEXT].linear.weight)
    x = torch.randn(1, FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        for p in learnt:
            p.requires_grad_(True).grad = None
        out = video_model.predict(video_model.encode(fields), [frozenset()], x, torch.tensor([400]))
        out.square().mean().backward()
        return [p.grad.clone() for p in learnt if p.grad is not None]

    plain = gradients()
    for net in video_model.nets().values():
        net.train()
    video_model.enable_gradient_checkpointing()
    again = gradients()
    assert len(plain) == len(again) == len(learnt)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


def test_a_background_is_what_rests() -> None:
    video = np.full((5, 4, 6, 3), 7, np.uint8)
    for i in range(5):
        video[i, :, i] = 200
    see = detector("background").see
    assert (see(video) == 7).all()
    assert see(video).shape == (1, 4, 6, 3)
    assert len(see(video[:1])) == 0


# -- the commands --------------------------------------------------------------------------------------------
@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in this process and an empty folder; gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in [n for n in os.environ if n.startswith(("SLURM_", "LOCAL_RANK", "NODE_RANK", "VGEN_"))]:
        monkeypatch.delenv(name)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")

    def typed(verb: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["vgen", verb, *arguments])
        return cli.run(verb, list(arguments))

    return typed


@pytest.fixture(scope="module")
def dances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the toybox with poses, each with its first frame and what rests in it."""
    out = tmp_path_factory.mktemp("dances") / "shards"
    puppets = Mix(core=0, many=0, texture=0, motion=0, relation=0, puppet=1)
    fields = ["pose", "reference", "background"]
    source = ToyboxSource(num_clips=4, seed=2, mix=puppets)
    prepare(Prepare(data=source, out=str(out), num_frames=4, num_processes=1, fields=fields), lambda *_: None)
    return out


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """A person, a background and a dance, by the names of their fields."""
    draw = np.random.default_rng(0)
    for name in ("person", "beach"):
        Image.fromarray(draw.integers(0, 256, (80, 96, 3)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    video = np.zeros((FRAMES, 80, 96, 3), np.uint8)
    video[:, 20:60, 40:44] = (0, 255, 85)
    pose = write_mp4(tmp_path / "dance.mp4", video)
    return {
        "reference": str(tmp_path / "person.png"),
        "background": str(tmp_path / "beach.png"),
        "pose": str(pose),
    }


SMALL = (
    "backbone=blank",
    "backbone.blank=toybox",
    "trainer=cpu",
    "trainer.num_threads=1",
    "data.val_clips=1",
)
STEPS = (
    "data.batch_size=1",
    "optim.ema_decay=0",
    "trainer.val_every_steps=9",
    "trainer.checkpoint_every_steps=1",
)
FEW = ("sampling.num_frames=2", "sampling.num_steps=2", "least_px=0")


def test_every_stage_is_a_command_upon_the_one_before(
    vgen, dances: Path, given: dict[str, str], tmp_path: Path
) -> None:
    data = (f"data.path={dances}", *SMALL, *STEPS)
    first = ("train", "experiment=toybox_disco_attributes", *data, "run.name=people")
    assert vgen(*first, "trainer.max_steps=1") == 0
    dance = ("train", "experiment=toybox_disco", *data, "run.name=dance", "stack.people.file=runs/people")
    assert vgen(*dance, "trainer.max_steps=1") == 0
    assert vgen(*dance, "trainer.max_steps=2", "run.resume=auto") == 0
    upon = (*data, "stack.dance.file=runs/dance", "trainer.max_steps=1")
    clips = ("data.window.num_frames=2", "run.name=moving")
    assert vgen("train", "experiment=toybox_disco_temporal", *upon, *clips) == 0
    assert vgen("train", "experiment=disco_subject", *upon, "run.name=subject") == 0
    fields = [f"{name}={file}" for name, file in given.items()]
    for run in ("dance", "moving", "subject"):
        assert vgen("generate", f"adapter=runs/{run}", *fields, *FEW, f"out={run}") == 0
    drawn = [np.asarray(Image.open(next(Path(run).glob("*.png")))) for run in ("dance", "moving", "subject")]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    parts = {name.split(".")[0] for name in load_adapter(tmp_path / "runs/subject/adapter.safetensors")[0]}
    assert parts == {"unet", "text", "background"}


def without(name: str, given: dict[str, str]) -> dict[str, str]:
    return {other: file for other, file in given.items() if other != name}


@pytest.fixture(scope="module")
def danced(dances: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = blank(Blank.TOYBOX, seed=0)
    model.source = "blank:toybox:0"
    video_model = assemble(DisCo(), model)
    components = video_model.components()
    named = {f"{n}.{k}": p for n in DisCo().engages() for k, p in components[n].named_parameters()}
    path = tmp_path_factory.mktemp("run") / "adapter.safetensors"
    save_adapter(path, {n: p.detach() for n, p in named.items()}, Card.of("disco", DisCo(), model, {}, {}))
    return path


def with_two_people(given: dict[str, str]) -> dict[str, str]:
    people = [[[x, 0.5, 1.0]] * 17 for x in (0.3, 0.7)]
    file = Path(given["pose"]).with_name("two.json")
    file.write_text(json.dumps([people] * FRAMES))
    return {**given, "pose": str(file), "pose.fit": "crop"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_two_people, "pose shows 2 people in frame 0, and the one person of reference is to move along"),
        (lambda g: without("reference", g), "the condition 'text' listens to reference; give reference=FILE"),
        (lambda g: without("pose", g), "the condition 'pose' listens to pose; give pose=FILE"),
        (lambda g: without("background", g), "the condition 'background' listens to background; give"),
        (lambda g: {**g, "edges": g["pose"]}, "is heard by no condition of this checkpoint"),
        (
            lambda g: {**without("background", g), "background.of": g["background"]},
            "background is not found in",
        ),
        (lambda g: {**g, "prompt": "a person"}, "this checkpoint hears no words, got prompt"),
    ],
    ids=["two people", "no person", "no pose", "no background", "another field", "behind a still", "words"],
)
def test_what_a_mistake_says(
    vgen,
    danced: Path,
    given: dict[str, str],
    capfd: pytest.CaptureFixture[str],
    change: Any,
    said: str,
) -> None:
    fields = [f"{name}={file}" for name, file in change(given).items()]
    assert vgen("generate", f"adapter={danced}", *FEW, *fields) == 2
    assert said in capfd.readouterr().err.replace("\n", " ")


def test_a_background_of_another_size_is_refused(toybox: ImageModel) -> None:
    video_model = assemble(DisCo(), toybox)
    fields = video_model.prepare({**heard(), "canvas": (FRAMES, 2 * SIDE, 2 * SIDE)})
    with pytest.raises(ValueError, match="background is 64 x 64 px where the clips are 128 x 128; give"):
        video_model.encode(fields)


def test_without_a_vision_tower_it_says_so(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"has no image_encoder; give a backbone\.path=FOLDER"):
        assemble(DisCo(), tiny).prepare({"reference": heard()["reference"]})


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop is the share of the clips that see no person, in 0\.\.1"):
        DisCo(drop=2.0)
    with pytest.raises(ValueError, match=r"drop is the share of the clips that see no person, in 0\.\.1"):
        DisCoTemporal(drop=-0.1)
