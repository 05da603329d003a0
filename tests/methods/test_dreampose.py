"""DreamPose: its size, what it sees and how it is guided, its stages as commands, and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models import UNet2DConditionModel
from PIL import Image

from vgen.app import cli
from vgen.app.export import Export, export
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.backbones.reference_adapter import ReferenceAdapter, reference_adapter
from vgen.conditions.pose_window import PoseSource, PoseWindow, dense_map, hue, neighbours, skeleton_map
from vgen.conditions.reference import LATENTS, TOKENS, Reference
from vgen.data.clip_files import write_mp4
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import IMAGE, POSE, Dual, Nested, drawn
from vgen.diffusion.start import NoisedPicture
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.methods import VideoModel, assemble
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.dreampose import DreamPose
from vgen.methods.instruct_pix2pix import InstructPix2Pix
from vgen.toybox.sampling import Mix

SIDE, FRAMES = 64, 3


@pytest.fixture
def toybox() -> ImageModel:
    """It has a vision tower."""
    return blank(Blank.TOYBOX, seed=0).freeze()


def taught(model: ImageModel) -> VideoModel:
    """Everything that is inserted says something."""
    video_model = assemble(DreamPose(), model)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in [*video_model.unet.inserted.parameters(), *video_model.modules.parameters()]:
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return video_model


def heard(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    pose = torch.rand(1, FRAMES, 1, 17, 3, generator=draw)
    pose[..., 2] = 1
    return {"reference": torch.randint(0, 256, (1, 1, 3, SIDE, SIDE), generator=draw).byte(), "pose": pose}


# -- its size ------------------------------------------------------------------------------------------------
def test_it_is_as_large_as_the_released_code() -> None:
    """A diffusers UNet of 14 channels, and an adapter of 54 to 50 tokens for 640 x 512 px."""
    with torch.device("meta"):
        guest = blank_unet(Blank.SD15)
        config = {key: value for key, value in guest.config.items() if not key.startswith("_")}
        wide = UNet2DConditionModel(**{**config, "in_channels": 14})
        vae: Any = None
        model = ImageModel(unet=guest, vae=vae, text_encoders=[], tokenizer=vae, scheduler_config={})
        recipe = DreamPose()
        conv = recipe.conditions()[POSE].insertions[0]
        adapter = ReferenceAdapter(num_tokens=50, dim=768, channels=4, height=80, width=64)
        inserted = conv.layer.channels * 320 * 9
    assert sum(p.numel() for p in model.unet.parameters()) + inserted == sum(
        p.numel() for p in wide.parameters()
    )
    assert sum(p.numel() for p in adapter.parameters()) == 986_558


# -- what it sees --------------------------------------------------------------------------------------------
def test_at_birth_clips_tokens_pass_as_they_are() -> None:
    adapter = ReferenceAdapter(num_tokens=5, dim=6, channels=4, height=4, width=8)
    tokens = torch.randn(2, 5, 6)
    torch.testing.assert_close(adapter(tokens, torch.randn(2, 4, 4, 8)), tokens)


def test_a_vision_tower_of_another_width_is_refused(toybox: ImageModel) -> None:
    other = replace(blank(Blank.SD15_NARROW), image_encoder=toybox.image_encoder)
    with pytest.raises(ValueError, match="gives tokens of 128 numbers where its UNet reads words of 32"):
        reference_adapter(other, SIDE, SIDE)


def test_without_a_vision_tower_it_says_so(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"has no image_encoder; give a backbone\.path=FOLDER"):
        assemble(DreamPose(), tiny).prepare({"reference": heard()["reference"]})


def test_states_behind_the_towers_last_norm_are_as_large_as_its_weights_say(toybox: ImageModel) -> None:
    fields = {"reference": heard()["reference"]}
    plain, normed = Reference(), Reference(normed=True)
    before = plain.prepare(toybox, fields).clip[TOKENS]
    behind = normed.prepare(toybox, fields).clip[TOKENS]
    norm = toybox.image_encoder.vision_model.post_layernorm
    torch.testing.assert_close(behind, norm(before))
    assert plain.fingerprint(toybox) != normed.fingerprint(toybox)


def test_a_window_holds_two_poses_on_both_sides_and_the_own_where_there_is_none() -> None:
    maps = torch.arange(4.0)[None, :, None, None, None]
    seen = neighbours(maps, 2)[0, :, :, 0, 0].tolist()
    assert seen == [[0, 0, 0, 1, 2], [1, 0, 1, 2, 3], [0, 1, 2, 3, 2], [1, 2, 3, 3, 3]]


def test_densepose_gives_u_and_v_of_the_nearest_pixel() -> None:
    pictures = torch.rand(1, 2, 3, 16, 24)
    assert torch.equal(dense_map(pictures, 2, 3), 2 * pictures[:, :, 1:, ::8, ::8] - 1)


def test_a_line_of_one_pixel_is_seen_in_every_cell() -> None:
    pictures = torch.zeros(1, 1, 3, 16, 16)
    pictures[0, 0, :, 5] = torch.tensor([0, 1.0, 0.5])[:, None]
    seen = skeleton_map(pictures, 4, 4)[0, 0]
    assert torch.equal(seen[1, 1], torch.ones(4))
    torch.testing.assert_close(seen[0, 1], torch.full((4,), 2 * 150 / 360 - 1))
    assert (seen[:, [0, 2, 3]] == -1).all()


def test_hues() -> None:
    colours = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0.4, 0.4, 0.4]])
    assert hue(colours.T[None, :, None])[0, 0].mul(360).round().tolist() == [0, 60, 120, 240, 300, 0]


@torch.no_grad()
def test_clips_follow_their_picture_and_their_poses(toybox: ImageModel) -> None:
    video_model = taught(toybox)
    sampling = Sampling(num_frames=FRAMES, num_steps=2, guidance=3.0)

    def made(**fields: torch.Tensor) -> torch.Tensor:
        return generate(video_model, [Prompt("", 0)], sampling, more={**heard(), **fields})

    alone = made()
    assert torch.equal(alone, made())
    assert not torch.allclose(alone, made(reference=heard(1)["reference"]), atol=1e-2)
    assert not torch.allclose(alone, made(pose=heard(1)["pose"]), atol=1e-2)
    still = heard()["pose"][:, :1].expand(-1, FRAMES, -1, -1, -1)
    frames = made(pose=still)
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_drawing_starts_from_the_noised_picture(toybox: ImageModel) -> None:
    video_model = assemble(DreamPose(), toybox)
    fields = video_model.prepare(heard())
    like = torch.empty(1, FRAMES, *fields[LATENTS].shape[1:])
    noise = video_model.start.noise(Draws(0, [("clip", 0)]), like)
    assert torch.equal(noise, noise[:, :1].expand_as(noise))
    first = video_model.start.begin(noise, 0.1, 0.9, fields)
    torch.testing.assert_close(first[:, 1], 0.1 * fields[LATENTS] + 0.9 * noise[:, 0])


def test_what_cannot_be_started_from_is_refused() -> None:
    noise = torch.zeros(1, 2, 4, 8, 8)
    with pytest.raises(
        ValueError, match="drawing starts from reference_latents, and the clips have only caption"
    ):
        NoisedPicture().begin(noise, 0.1, 0.9, {"caption": [""]})
    with pytest.raises(ValueError, match="has 4 x 8 cells where 8 x 8 are drawn"):
        NoisedPicture().begin(noise, 0.1, 0.9, {LATENTS: torch.zeros(1, 4, 4, 8)})


# -- how it is guided ----------------------------------------------------------------------------------------
def test_guidance_is_by_picture_and_then_by_pose() -> None:
    guidance = DreamPose(image_guidance=8.0).guidance(3.0)
    assert [branch.dropped for branch in guidance.branches()] == [{IMAGE, POSE}, {POSE}, set()]
    nothing, image, both = outs = torch.randn(3, 1, 4)
    torch.testing.assert_close(guidance.combine(outs), nothing + 8 * (image - nothing) + 3 * (both - image))
    assert Nested().branches() == Dual().branches()


def test_guidance_without_a_scale_each_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a scale for each of image, text, got"):
        Nested(scales=[1.0])


def test_three_thirds_of_dropout_are_hit_in_one_draw() -> None:
    num = 3000
    draws = Draws(5, [(f"s{i}", 0) for i in range(num)])
    dropped = drawn(DreamPose().dropout(), draws.uniform("text_drop", torch.device("cpu")).tolist())
    for names in ({POSE}, {IMAGE}, {IMAGE, POSE}):
        assert abs(dropped.count(frozenset(names)) - 0.05 * num) < 3 * (0.05 * 0.95 * num) ** 0.5
    assert not DreamPose(drop=0.0).dropout()


@torch.no_grad()
def test_what_is_dropped_is_a_black_picture_and_no_pose(toybox: ImageModel) -> None:
    video_model = taught(toybox)
    black = {**heard(), "reference": torch.zeros(1, 1, 3, SIDE, SIDE, dtype=torch.uint8)}
    fields = {**black, "canvas": (FRAMES, SIDE, SIDE)}
    encoded = video_model.encode(video_model.prepare(fields))
    torch.testing.assert_close(encoded[IMAGE].null["tokens"], encoded[IMAGE].clip["tokens"])
    assert not encoded[POSE].null["window"].any()
    assert encoded[POSE].frames["window"].amin() == -1


def test_checkpointed_gradients_are_the_plain_ones(toybox: ImageModel) -> None:
    video_model = taught(toybox)
    fields = video_model.prepare({**heard(), "canvas": (FRAMES, SIDE, SIDE)})
    conv, mix = video_model.unet.inserted["conv_in"].conv.weight, video_model.modules[IMAGE].linear1.weight
    x = torch.randn(1, FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        for p in (conv, mix):
            p.requires_grad_(True).grad = None
        out = video_model.predict(video_model.encode(fields), [frozenset()], x, torch.tensor([400]))
        out.square().mean().backward()
        return [p.grad.clone() for p in (conv, mix)]

    plain = gradients()
    video_model.unet.train()
    video_model.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)
    video_model.eject()


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
def posed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the toybox with poses, each with its first frame as its reference."""
    out = tmp_path_factory.mktemp("posed") / "shards"
    puppets = Mix(core=0, many=0, texture=0, motion=0, relation=0, puppet=1)
    source = ToyboxSource(num_clips=4, seed=2, mix=puppets)
    prepare(
        Prepare(data=source, out=str(out), num_frames=4, num_processes=1, fields=["pose", "reference"]),
        lambda *_: None,
    )
    return out


@pytest.fixture
def person(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (80, 96, 3)).astype(np.uint8)).save(tmp_path / "person.png")
    return tmp_path / "person.png"


def dance(folder: Path, height: int = 80, width: int = 96) -> Path:
    video = np.zeros((FRAMES, height, width, 3), np.uint8)
    video[:, 20:60, 40:44] = (0, 255, 85)
    return write_mp4(folder / f"dance{width}.mp4", video)


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


def test_every_stage_is_a_command_and_all_draw_together(
    vgen, posed: Path, person: Path, tmp_path: Path
) -> None:
    """Base, and on after its death; one person from it; the decoder; both in one drawing; and out and in
    again."""
    data = (f"data.path={posed}", "data.window.num_frames=2", *SMALL, *STEPS)
    base = ("train", "experiment=toybox_dreampose", *data, "run.name=base")
    assert vgen(*base, "trainer.max_steps=1") == 0
    assert vgen(*base, "trainer.max_steps=2", "run.resume=auto") == 0
    subject = ("train", "experiment=dreampose_subject", *data, "run.name=subject", "run.init_from=runs/base")
    assert vgen(*subject, "trainer.max_steps=1") == 0
    decoder = ("train", "experiment=dreampose_decoder", *data, "run.name=decoder", "trainer.accumulate=1")
    assert vgen(*decoder, "trainer.max_steps=1") == 0
    assert {n.split(".")[1] for n in load_adapter(tmp_path / "runs/decoder/adapter.safetensors")[0]} == {
        "decoder"
    }
    given = (f"reference={person}", f"pose={dance(tmp_path)}", *FEW)
    assert vgen("generate", "adapter=runs/subject", *given, "out=plain") == 0
    beside = "stack.decoder.file=runs/decoder"
    assert vgen("generate", "adapter=runs/subject", beside, *given, "out=both") == 0
    plain, both = (np.asarray(Image.open(next(Path(out).glob("*.png")))) for out in ("plain", "both"))
    assert not np.array_equal(plain, both)
    export(Export(run="runs/subject", to="dreampose", out="theirs"))
    export(Export(source="theirs", to="vgen", backbone="blank:toybox:0", out="again"))
    before, _ = load_adapter(tmp_path / "runs/subject/adapter.safetensors")
    after, card = load_adapter(tmp_path / "again/adapter.safetensors")
    assert card.recipe == "dreampose"
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_a_stage_of_another_base_is_refused(vgen, posed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = (f"data.path={posed}", "data.window.num_frames=2", *SMALL, *STEPS, "trainer.max_steps=1")
    assert vgen("train", "experiment=toybox_dreampose", *data, "run.name=base") == 0
    subject = ("train", "experiment=dreampose_subject", *data, "run.init_from=runs/base")
    assert vgen(*subject, "run.name=other", "backbone.seed=1") == 2
    assert "was trained on image model blank:toybox:0" in capfd.readouterr().err
    assert vgen(*subject, "run.name=dense", "method.pose.reading=control") == 2
    assert "listens to reference, pose, this run to reference, control" in capfd.readouterr().err
    asked = ("run.name=asked", "callbacks.prompts=[a person]")
    assert vgen(*subject, *asked) == 2
    assert "draws samples from words, and this method listens to image, pose alone" in capfd.readouterr().err


@pytest.fixture
def adapter(tmp_path: Path, toybox: ImageModel) -> Path:
    video_model = assemble(DreamPose(), toybox)
    toybox.source = "blank:toybox:0"
    named = {f"unet.{n}": p for n, p in video_model.unet.named_parameters()}
    named |= {f"{IMAGE}.{n}": p for n, p in video_model.modules[IMAGE].named_parameters()}
    path = tmp_path / "adapter.safetensors"
    save_adapter(
        path, {n: p.detach() for n, p in named.items()}, Card.of("dreampose", DreamPose(), toybox, {}, {})
    )
    return path


def blank_picture(folder: Path, person: Path) -> list[str]:
    Image.new("RGB", (96, 80), "white").save(folder / "white.png")
    return [f"reference={folder / 'white.png'}", f"pose={dance(folder)}"]


def small_picture(folder: Path, person: Path) -> list[str]:
    Image.open(person).resize((48, 40)).save(folder / "small.png")
    return [f"reference={folder / 'small.png'}", f"pose={dance(folder)}"]


def two_people(folder: Path, person: Path) -> list[str]:
    """The second one comes in the second frame."""
    people = [[[x, 0.5, 1.0]] * 17 for x in (0.3, 0.7)]
    (folder / "two.json").write_text(json.dumps([people[:1], people]))
    return [f"reference={person}", f"pose={folder / 'two.json'}"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (two_people, "pose shows 2 people in frame 1, and the one person of reference is to move along it"),
        (blank_picture, "shows nothing, all its pixels have one colour"),
        (small_picture, "is 40 px at its shorter side where 64 px are drawn"),
        (lambda f, p: [f"reference={p}", f"pose={dance(f, 80, 160)}"], "has an aspect of 2 where reference="),
        (lambda f, p: [f"reference={p}"], "the condition 'pose' listens to pose; give pose=FILE"),
        (
            lambda f, p: [f"pose={dance(f)}"],
            "the condition 'image' listens to reference; give reference=FILE",
        ),
        (
            lambda f, p: [f"reference={p}", f"control={dance(f)}"],
            "is heard by no condition of this checkpoint",
        ),
    ],
    ids=["two people", "blank", "small", "another aspect", "no pose", "no picture", "another field"],
)
def test_what_a_mistake_says(
    vgen,
    adapter: Path,
    person: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    given: Any,
    said: str,
) -> None:
    assert vgen("generate", f"adapter={adapter}", *FEW, *given(tmp_path, person)) == 2
    assert said in capfd.readouterr().err.replace("\n", " ")


def test_knobs_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="drop is a share of the clips, 0 to 1, got 2"):
        DreamPose(drop=2.0)
    with pytest.raises(ValueError, match="a window's radius must be 0 or more poses, got -1"):
        PoseWindow(radius=-1)
    assert PoseWindow(reading=PoseSource.CONTROL).reads() == ("control",)
    assert TOKENS != LATENTS
    assert InstructPix2Pix().guidance(4.0).rows() == ("null", "text")
