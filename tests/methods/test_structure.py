"""Inversion and sampling beside diffusers' own ControlNet, tiny: what it says reaches the UNet, and the way
back is the way there."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor2_0

from vgen.app.control_net import Structure
from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.processor import control_of
from vgen.attention.sites import AttentionKind, attention_sites
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Stage
from vgen.conditions.text import context_of
from vgen.diffusion.frames import Sliding
from vgen.diffusion.guidance import NOTHING, Cfg
from vgen.methods import assemble
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import start_noise
from vgen.methods._sampling import Sampling
from vgen.methods._wishes import Wish
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt

SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"
FRAMES, STEPS, SIDE = 3, 6, 8


@pytest.fixture(scope="module")
def model() -> ImageModel:
    return blank(Blank.SD15_NARROW, seed=0).freeze()


def net_of(model: ImageModel, silent: bool = False) -> ControlNetModel:
    """A copy of the encoder, as they are all born; unless ``silent``, with something in its zero
    convolutions."""
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(model.unet).eval().requires_grad_(False)
    zeros = [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]
    if not silent:
        for conv in zeros:
            torch.nn.init.normal_(conv.weight, std=0.3)
    return net


def pictures(frames: int = FRAMES, seed: int = 4) -> torch.Tensor:
    return torch.rand(1, frames, 3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def session(model: ImageModel):
    video_model = assemble(PromptToPrompt(), model)
    video_model.unet.requires_grad_(False)
    noise, latents = (start_noise(model, FRAMES, (SIDE, SIDE), seed, torch.device("cpu")) for seed in (0, 1))
    yield EditSession(
        video_model=video_model,
        wish=Wish(source=SOURCE, target=TARGET),
        noise=noise,
        sampling=Sampling(num_steps=STEPS),
        latents=0.5 * latents,
    )
    video_model.unet.eject()


def with_net(session: EditSession, net: ControlNetModel, **how) -> EditSession:
    """The same session with a ControlNet in it; the one it is made of stays without."""
    conditions = dict(session.video_model.conditions)
    video_model = replace(session.video_model, modules=torch.nn.ModuleDict(), conditions=conditions)
    structure = Structure(net=net, **{"pictures": pictures(), **how})
    return replace(session, video_model=video_model, fields=structure.beside(video_model, session.noise))


def start(session: EditSession, **how) -> torch.Tensor:
    return session.invert(SOURCE, **how).start


def test_a_new_born_net_says_nothing(model: ImageModel, session: EditSession) -> None:
    silent = with_net(session, net_of(model, silent=True))
    torch.testing.assert_close(start(silent), start(session))


def test_what_it_says_is_what_diffusers_makes_of_it(model: ImageModel, session: EditSession) -> None:
    """One evaluation against stock UNet, stock ControlNet and stock attention, frames as a batch and the text
    repeated for each."""
    net, stock_unet, scale = net_of(model), copy.deepcopy(model.unet), 0.7
    stock_net = copy.deepcopy(net)
    stock_unet.set_attn_processor(AttnProcessor2_0())
    own = with_net(session, net, scale=scale)
    given, x = own.encoded(SOURCE), own.latents
    with torch.no_grad():
        found = own.video_model.predict(given, [NOTHING], x, torch.tensor([500]))
        text = given["text"].clip["text"].repeat(FRAMES, 1, 1)
        down, mid = stock_net(x[0], 500, text, pictures()[0], scale, return_dict=False)
        expected = stock_unet(
            x[0], 500, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-3)


@pytest.fixture
def calm(session: EditSession):
    """Random weights predict noise that changes wildly with x_t, which no inversion survives; a faint output
    layer is smooth."""
    weight = session.video_model.unet.image_unet.conv_out.weight
    weight.data.mul_(0.05)
    yield
    weight.data.div_(0.05)


@pytest.mark.usefixtures("calm")
def test_there_and_back_with_it_is_the_clip(model: ImageModel, session: EditSession) -> None:
    own = with_net(session, net_of(model))

    def error(back: EditSession) -> float:
        found = back.reconstruct(start(own, fixed_point_steps=6), SOURCE)
        return (found - own.latents).abs().max().item()

    assert error(own) < 1e-3
    assert error(session) > 0.1, "without it the way back is another"
    assert error(replace(own, fields={"control": pictures(seed=5)})) > 2e-3, "and with other pictures too"


def test_it_has_addresses_and_may_read_other_frames(model: ImageModel, session: EditSession) -> None:
    """Seven self- and seven cross-attentions; the key-frame attention of one-shot ControlVideo acts inside it
    too."""
    with torch.device("meta"):
        sites = attention_sites(ControlNetModel.from_unet(blank_unet(Blank.SD15)))
    for kind in (AttentionKind.SELF, AttentionKind.CROSS):
        mine = [s for s in sites if s.kind is kind]
        assert [s.ordinal for s in mine] == list(range(7))
        assert [s.level for s in mine] == [0, 0, 1, 1, 2, 2, 3]
        assert [s.stage for s in mine].count(Stage.DOWN) == 6
    plain = with_net(session, net_of(model))
    reading = with_net(session, net_of(model), keys=(FrameKeys(frames=[Frame.FIRST]),))
    assert len(control_of(reading.video_model.modules["control"]).sites) == 14
    x, t = session.latents, torch.tensor([500])
    said = []
    for own in (plain, reading):
        own.video_model.enter(None)
        given = Conditioning(context_of(own.encoded(SOURCE)["text"]))
        said.append(own.video_model.modules["control"](x, t, given, pictures()).mid)
    torch.testing.assert_close(said[0][0], said[1][0])
    assert not torch.allclose(said[0][1], said[1][1])
    assert session.control is not control_of(reading.video_model.modules["control"])


@pytest.mark.parametrize(
    "recipe",
    [PromptToPrompt(), FateZero(reconstruct=False)],
    ids=lambda r: type(r).__name__,
)
def test_methods_need_not_know(model: ImageModel, session: EditSession, recipe) -> None:
    """Frame by frame, in windows, with null-text: the session brings the net along."""
    few = replace(session, frames=Sliding(num_frames=2, overlap=1), sampling=Sampling(num_steps=2))
    own = with_net(few, net_of(model))
    done, without = recipe.edit(own), recipe.edit(few)
    assert done.latents.shape == own.latents.shape
    assert not torch.allclose(done.latents, without.latents)


def test_in_windows_each_frame_has_its_own_picture(model: ImageModel, session: EditSession) -> None:
    own = with_net(replace(session, sampling=Sampling(num_steps=2)), net_of(model))
    given = own.encoded(SOURCE)

    def drawn(of: EditSession) -> torch.Tensor:
        return of.sample(of.noise, lambda _: given, Cfg(scale=1.0))

    torch.testing.assert_close(
        drawn(replace(own, frames=Sliding(num_frames=2, overlap=1))), drawn(own), atol=1e-4, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("shape", "scale", "message"),
    [
        (
            (1, FRAMES - 1, 3, 64, 64),
            1.0,
            "must be one per frame of the clip, 3 of 64 x 64 px for this ControlNet, got 2 of 64 x 64",
        ),
        ((1, FRAMES, 3, 32, 64), 1.0, "got 3 of 32 x 64"),
        ((FRAMES, 3, 64, 64), 1.0, "must be b f 3 H W"),
        ((1, FRAMES, 3, 64, 64), -1.0, "scale must be 0 or more, got -1.0"),
    ],
)
def test_pictures_that_do_not_fit_speak(
    model: ImageModel, session: EditSession, shape: tuple, scale: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_net(session, net_of(model), pictures=torch.zeros(shape), scale=scale)


def test_a_net_of_another_image_model_is_refused(session: EditSession) -> None:
    other = ControlNetModel.from_unet(blank_unet(Blank.TOYBOX))
    with pytest.raises(
        ValueError,
        match=r"belongs to another image model \(block_out_channels \[48, 96, 128\], the UNet's is \[32, 64",
    ):
        with_net(session, other)
