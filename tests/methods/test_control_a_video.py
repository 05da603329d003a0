"""Control-A-Video: its layers, its noises, its first frame, its pieces and its commands."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from PIL import Image
from torch import Tensor, nn

from vgen.app import cli
from vgen.app.export import Export, export
from vgen.app.loading import load_backbone
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import ForwardContext
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Site, Stage
from vgen.data.batch import Batch
from vgen.data.clip_files import write_mp4
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.draws import Draws
from vgen.diffusion.frames import Sliding
from vgen.diffusion.guidance import TEXT, TIME
from vgen.diffusion.motion_noise import Flow, Residual, changes
from vgen.formats.adapter import Card, load_adapter, save_adapter
from vgen.formats.state_file import Container, write
from vgen.layers.temporal_conv import TemporalConvSpec
from vgen.methods import VideoModel, assemble
from vgen.methods._sampling import Prompt, Sampling, generate, num_steps, refuse_impossible
from vgen.methods.control_a_video import ControlAVideo, MotionNoise
from vgen.methods.control_net import ControlNets

SITE = Site("x", Stage.DOWN, Kind.CONV, 0, 0, 0, 6, 1)
DRAWS = Draws(0, [("a", 0)])
LIKE = torch.empty(1, 4, 4, 8, 8)


def loud(video_model: VideoModel, std: float = 0.1) -> VideoModel:
    """Everything beside the image weights says something."""
    draw = torch.Generator().manual_seed(2)
    nets = [video_model.unet.inserted, *video_model.modules.values()]
    with torch.no_grad():
        for p in (p for net in nets for p in net.parameters()):
            p.add_(std * torch.randn(p.shape, generator=draw))
    return video_model


# -- its layers ----------------------------------------------------------------------------------------------
def test_it_is_as_large_as_the_released_code() -> None:
    """A convolution over frames of every one that sees more than a pixel, and an attention with a norm of
    every transformer block, in the UNet and in the ControlNet."""
    nothing: Any = None
    with torch.device("meta"):
        guest = blank_unet(Blank.SD15)
        vae: Any = type("Vae", (), {"config": {"block_out_channels": (1,) * 4}})()
        model = ImageModel(unet=guest, vae=vae, text_encoders=[], tokenizer=nothing, scheduler_config={})
        wanted = over_frames(guest)
        video_model = assemble(ControlAVideo(), model)
    net = video_model.modules["edges"]
    assert sum(p.numel() for p in video_model.unet.inserted.parameters()) == wanted
    assert sum(p.numel() for p in net.inserted.parameters()) == over_frames(net.control_net)
    assert (wanted, over_frames(net.control_net)) == COUNTS


COUNTS = (200_787_572, 96_248_288)
"""Of the released classes at Stable Diffusion 1.5's shapes."""


def over_frames(net: nn.Module) -> int:
    wide = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    blocks = [m.dim for m in net.modules() if isinstance(m, BasicTransformerBlock)]
    return sum(3 * c * c + c for c in wide) + sum(4 * c * c + c + 2 * c for c in blocks)


def test_a_convolution_over_frames_is_one_matrix_over_three() -> None:
    torch.manual_seed(0)
    layer = TemporalConvSpec().build(SITE, nn.Identity(), ForwardContext(num_frames=4)).double()
    x = torch.randn(2 * 4, 6, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x)
    nn.init.normal_(layer.conv_temporal.weight)
    nn.init.normal_(layer.conv_temporal.bias)
    clip, weight = x.unflatten(0, (2, 4)), layer.conv_temporal.weight
    wanted = layer.conv_temporal.bias[:, None, None].expand_as(clip).clone()
    for frame in range(4):
        for tap in (-1, 0, 1):
            if 0 <= frame + tap < 4:
                wanted[:, frame] += torch.einsum("oi,bihw->bohw", weight[:, :, tap + 1], clip[:, frame + tap])
    torch.testing.assert_close(layer(x), wanted.flatten(0, 1))
    with pytest.raises(ValueError, match="must be odd and at least 1, got 2; the paper's is 3"):
        TemporalConvSpec(kernel=2)


@torch.no_grad()
def test_frames_drawn_apart_are_the_image_models_own(tiny: ImageModel) -> None:
    """The first branch of guidance leaves out every layer over time, whatever it has learnt."""
    x = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text, t = tiny.encode_text(["a red circle"]).tokens, torch.tensor([400])
    frames = torch.stack([tiny.unet(x[:, i], t, text).sample for i in range(3)], 1)
    video_model = loud(assemble(ControlAVideo(), tiny))
    encoded = video_model.encode({"caption": ["a red circle"]})
    apart = video_model.predict(encoded, [frozenset({TIME})], x, t)
    torch.testing.assert_close(apart, frames, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(video_model.predict(encoded, [frozenset()], x, t), frames, atol=1e-2)


def test_guidance_is_by_motion_and_then_by_text() -> None:
    guidance = ControlAVideo().guidance(7.5)
    assert [branch.dropped for branch in guidance.branches()] == [{TIME, TEXT}, {TEXT}, set()]
    apart, moving, said = outs = torch.randn(3, 1, 4)
    torch.testing.assert_close(guidance.combine(outs), apart + 1.5 * (moving - apart) + 7.5 * (said - moving))


def test_checkpointed_gradients_are_the_plain_ones(tiny: ImageModel) -> None:
    video_model = loud(assemble(ControlAVideo(), tiny), std=0.02)
    learn = [
        net.inserted["conv_in"].conv_temporal.weight
        for net in (video_model.unet, video_model.modules["edges"])
    ]
    edges = torch.randint(0, 2, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte() * 255
    x = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[Tensor]:
        for p in learn:
            p.requires_grad_(True).grad = None
        encoded = video_model.encode({"caption": ["a"], "edges": edges, "latents": x})
        video_model.predict(encoded, [frozenset()], x, torch.tensor([400])).square().mean().backward()
        return [p.grad.clone() for p in learn]

    plain = gradients()
    video_model.unet.train()
    video_model.modules.train()
    video_model.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


# -- its noises ----------------------------------------------------------------------------------------------
def test_what_stands_still_keeps_its_noise() -> None:
    """The right half of the picture changes once, between the second frame and the third."""
    source = torch.zeros(1, 4, 3, 64, 64, dtype=torch.uint8)
    source[:, 2:, :, :, 32:] = 200
    noise = Residual().noise(DRAWS, LIKE, fields={"source": source})[0]
    own = Residual().noise(DRAWS, LIKE)[0]
    assert torch.equal(own[0], noise[0])
    assert torch.equal(noise[1], noise[0])
    assert torch.equal(noise[3], noise[2])
    assert torch.equal(noise[2, :, :, :4], noise[1, :, :, :4])
    assert torch.equal(noise[2, :, :, 4:], own[2, :, :, 4:])


def test_changes_are_shares_of_the_clips_greatest() -> None:
    frames = torch.zeros(2, 3, 3, 16, 16)
    frames[0, 1:] += 10
    frames[1, 1:, :, :8] += 4
    frames[1, 2:, :, :8] += 8
    found = changes(frames, 2, 2)
    assert torch.equal(found[0, :, 0, 0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found[1, :, :, 0], torch.tensor([[0.5, 0.0], [1.0, 0.0]]))


def test_noise_follows_the_flow_by_whole_cells() -> None:
    flow = torch.zeros(1, 3, 2, 64, 64)
    flow[:, 0, 0] = 8.0
    noise, own = Flow().noise(DRAWS, LIKE, fields={"flow": flow})[0], Residual().noise(DRAWS, LIKE)[0]
    assert torch.equal(noise[1, :, :, 1:], noise[0, :, :, :-1])
    assert torch.equal(noise[1, :, :, 0], own[1, :, :, 0]), "what comes in is new"
    assert torch.equal(noise[2], noise[1])


@pytest.mark.parametrize("start", [Residual(), Flow()])
def test_every_frame_alone_is_standard_normal(start: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    fields = {
        "source": torch.randint(0, 256, (1, 4, 3, 64, 64), generator=draw).byte(),
        "flow": 8
        * torch.randn(1, 3, 2, 4, 4, generator=draw).repeat_interleave(16, 3).repeat_interleave(16, 4),
    }
    noise = start.noise(DRAWS, torch.empty(1, 4, 64, 16, 16), fields=fields)
    assert noise.mean((0, 2, 3, 4)).abs().amax() < 0.05
    assert (noise.std((0, 2, 3, 4)) - 1).abs().amax() < 0.05


def test_noises_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="a share of the greatest one, 0 to 1, got 2"):
        ControlAVideo(threshold=2.0)
    with pytest.raises(ValueError, match="looks at pixels, and a latent cache has none"):
        Residual().noise(DRAWS, LIKE, fields={"latents": LIKE})
    with pytest.raises(ValueError, match="needs the field flow, and the clips have only caption"):
        Flow().noise(DRAWS, LIKE, fields={"caption": []})
    assert ControlAVideo(noise=MotionNoise.FLOW).reads()["flow"] is False
    assert "flow" not in ControlAVideo().reads()


# -- its first frame -----------------------------------------------------------------------------------------
def test_training_shows_the_first_frame_clean_and_asks_for_the_others(tiny: ImageModel) -> None:
    recipe = ControlAVideo(text_drop=0.0)
    video_model = assemble(recipe, tiny)
    seen: list[Tensor] = []
    video_model.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    latents = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    still = torch.zeros(1, 3, 3, 64, 64, dtype=torch.uint8)
    batch = Batch(keys=[("a", 0)], captions=["a"], video=still, latents=latents)
    batch.fields["edges"] = still[:, :, 0]
    objective = recipe.objective(tiny)
    objective.loss(video_model, batch, DRAWS)["loss"].backward()
    assert torch.equal(seen[0][:, 0], latents[:, 0])
    assert not torch.allclose(seen[0][:, 1], latents[:, 1], atol=1e-2)
    one = Batch(keys=[("a", 0)], captions=["a"], video=still[:, :1], latents=latents[:, :1])
    one.fields["edges"] = still[:, :1, 0]
    with pytest.raises(ValueError, match=r"leaves nothing to learn; set data\.window\.num_frames=2 or more"):
        objective.loss(video_model, one, DRAWS)


@torch.no_grad()
def test_a_clip_begins_with_its_picture_and_goes_on_in_pieces(tiny: ImageModel) -> None:
    video_model = loud(assemble(ControlAVideo(), tiny), std=0.02)
    draw = torch.Generator().manual_seed(1)
    reference = torch.randint(0, 256, (1, 1, 3, 64, 64), generator=draw).byte()
    edges = torch.randint(0, 2, (1, 5, 64, 64), generator=draw).byte() * 255
    whole = Sampling(num_frames=5, num_steps=2, width_px=64, height_px=64)
    pieces = replace(whole, window=Sliding(num_frames=3))
    steps: list[int] = []

    def made(sampling: Sampling, **fields: Tensor) -> Tensor:
        steps.clear()
        more = {"edges": edges, **fields}
        out = generate(video_model, [Prompt("a", 0)], sampling, lambda: steps.append(1), more)
        assert len(steps) == num_steps(video_model, sampling, more)
        return out

    given, drawn = made(whole, reference=reference), made(whole)
    seen = tiny.decode(tiny.encode(reference / 127.5 - 1))
    torch.testing.assert_close(given[:, 0], seen[:, 0])
    assert not torch.allclose(drawn[:, 0], given[:, 0], atol=1e-2)
    apart = made(pieces, reference=reference)
    assert apart.shape == given.shape
    assert not torch.allclose(apart[:, 4], given[:, 4], atol=1e-3)
    early = edges.clone()
    early[:, 4] = 255 - early[:, 4]
    torch.testing.assert_close(made(pieces, reference=reference, edges=early)[:, :3], apart[:, :3])
    with pytest.raises(ValueError, match=r"sampling\.window\.num_frames=1 leaves no frame to draw"):
        refuse_impossible(video_model, replace(whole, window=Sliding(num_frames=1)))


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
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edged") / "shards"
    source = ToyboxSource(num_clips=4, seed=2)
    prepare(
        Prepare(data=source, out=str(out), num_frames=4, num_processes=1, fields=["edges"]), lambda *_: None
    )
    return out


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet that says something."""
    model, recipe, draw = load_backbone("blank:toybox:0"), ControlNets(), torch.Generator().manual_seed(0)
    found = assemble(recipe, model).modules["edges"].named_parameters()
    moved = {f"edges.{n}": p.detach() + 0.1 * torch.randn(p.shape, generator=draw) for n, p in found}
    path = tmp_path_factory.mktemp("net") / "edges.safetensors"
    save_adapter(path, moved, Card.of("control_net", recipe, model, {}, {}))
    return path


def clip(folder: Path, width: int = 96) -> Path:
    video = np.zeros((3, 80, width, 3), np.uint8)
    video[:, 20:60, 40:44] = 255
    return write_mp4(folder / f"edges{width}.mp4", video)


def picture(folder: Path, height: int = 80, width: int = 96) -> Path:
    colours = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(colours).save(folder / f"first{height}.png")
    return folder / f"first{height}.png"


SMALL = (
    "backbone=blank",
    "backbone.blank=toybox",
    "trainer=cpu",
    "trainer.num_threads=1",
    "data.val_clips=1",
)
STEPS = (
    "data.batch_size=1",
    "data.window.num_frames=2",
    "optim.ema_decay=0",
    "trainer.val_every_steps=9",
    "trainer.checkpoint_every_steps=1",
)
FEW = ("prompt=a red circle", "sampling.num_frames=3", "sampling.num_steps=2", "least_px=0")


def test_it_is_taught_upon_a_control_net_and_draws(
    vgen, shards: Path, net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one command; on after its death; with and without a picture to begin with."""
    train = ("train", "experiment=toybox_control_a_video", f"data.path={shards}", *SMALL, *STEPS)
    assert vgen(*train, "run.name=mute", "trainer.max_steps=1") == 2
    assert "the net 'edges' says nothing" in capfd.readouterr().err.replace("\n", " ")
    upon = (*train, f"stack.edges.file={net}", "run.name=a")
    assert vgen(*upon, "trainer.max_steps=1") == 0
    assert vgen(*upon, "trainer.max_steps=2", "run.resume=auto") == 0
    tensors, card = load_adapter(tmp_path / "runs/a/adapter.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"unet", "edges"}
    assert all(".inserted." in name for name in tensors)
    assert [base["recipe"] for base in card.base] == ["control_net"]
    edges = f"edges={clip(tmp_path)}"
    assert vgen("generate", "adapter=runs/a", edges, *FEW, "out=alone") == 0
    given = (edges, f"reference={picture(tmp_path)}", f"source={clip(tmp_path)}")
    assert vgen("generate", "adapter=runs/a", *given, *FEW, "sampling.window.num_frames=2", "out=begun") == 0
    mistakes = {
        f"reference={picture(tmp_path, 40, 48)}": "is 40 px at its shorter side where 64 px are drawn",
        f"reference={picture(tmp_path, 81, 200)}": "has an aspect of 1.2 where reference=",
    }
    for argument, said in mistakes.items():
        assert vgen("generate", "adapter=runs/a", edges, argument, *FEW) == 2
        assert said in capfd.readouterr().err.replace("\n", " ")


def test_the_authors_folder_is_read(tmp_path: Path) -> None:
    """By their names; the ControlNet's image weights come along."""
    model = blank(Blank.TOYBOX, seed=0).freeze()
    video_model = loud(assemble(ControlAVideo(), model))
    named = {f"unet.{n}": p.detach().clone() for n, p in video_model.unet.named_parameters()}
    named |= {f"edges.{n}": p.detach().clone() for n, p in video_model.modules["edges"].named_parameters()}
    theirs: dict[str, dict[str, Tensor]] = {"unet": {}, "controlnet": {}}
    for name, value in named.items():
        net, _, rest = name.partition(".")
        short = rest.removeprefix("inserted.").removeprefix("image_unet.").removeprefix("control_net.")
        short = short.replace("/", ".").replace("attn_temp.", "attn_temporal.")
        short = short.replace("norm_temp.", "norm_temporal.")
        theirs["unet" if net == "unet" else "controlnet"][short] = value
    folder = tmp_path / "controlavideo-canny"
    for net, state in theirs.items():
        write(folder / net / "diffusion_pytorch_model.safetensors", state, Container.SAFETENSORS)
    out = tmp_path / "again"
    export(Export(source=str(folder), to="vgen", backbone="blank:toybox:0", out=str(out)))
    tensors, card = load_adapter(out / "adapter.safetensors")
    assert card.recipe == "control_a_video"
    assert tensors.keys() == {name for name in named if not name.startswith("unet.image_unet.")}
    assert all(torch.equal(value, named[name]) for name, value in tensors.items())
    write(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        {**theirs["unet"], "x.attn1_gamma": torch.ones(1)},
        Container.SAFETENSORS,
    )
    again = Export(source=str(folder), to="vgen", backbone="blank:toybox:0", out=str(tmp_path / "third"))
    with pytest.raises(ValueError, match="of a variant of Control-A-Video that was never published"):
        export(again)
