"""Inversion and sampling beside diffusers' own ControlNet, tiny: what it says reaches the UNet, and the way
back is the way there."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import ControlNetModel
from diffusers.models.attention_processor import AttnProcessor2_0

from vgen.attention.keys import Frame, FrameKeys
from vgen.attention.moment import Direction, Moment, Rows
from vgen.attention.processor import control_of
from vgen.attention.sites import AttentionKind, attention_sites
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.sites import Stage
from vgen.diffusion.windows import Sliding
from vgen.methods import assemble
from vgen.methods._editing import EditSession, Wish, start_noise
from vgen.methods._structure import Structure
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
    unet = assemble(PromptToPrompt(), model).requires_grad_(False)
    noise, latents = (start_noise(model, FRAMES, (SIDE, SIDE), seed, torch.device("cpu")) for seed in (0, 1))
    yield EditSession(
        model=model,
        unet=unet,
        objective=PromptToPrompt().objective(model),
        wish=Wish(source=SOURCE, target=TARGET),
        noise=noise,
        latents=0.5 * latents,
    )
    unet.eject()


def start(session: EditSession, **how) -> torch.Tensor:
    return session.invert(SOURCE, STEPS, **how).start


def test_a_new_born_net_says_nothing(model: ImageModel, session: EditSession) -> None:
    silent = replace(session, structure=Structure(net=net_of(model, silent=True), pictures=pictures()))
    torch.testing.assert_close(start(silent), start(session))


def test_what_it_says_is_what_diffusers_makes_of_it(model: ImageModel, session: EditSession) -> None:
    """One evaluation against stock UNet, stock ControlNet and stock attention, frames as a batch and the text
    repeated for each."""
    net, stock_unet, scale = net_of(model), copy.deepcopy(model.unet), 0.7
    stock_net = copy.deepcopy(net)
    stock_unet.set_attn_processor(AttnProcessor2_0())
    moment = Moment(2, STEPS, 500, Direction.DENOISE, Rows())
    own = replace(session, structure=Structure(net=net, pictures=pictures(), scale=scale))
    context, x = own.text(SOURCE), own.latents
    with torch.no_grad():
        found = own.unet(
            x, torch.tensor([500]), context, own.structure.residuals(x, torch.tensor([500]), context, moment)
        )
        text = context.tokens.repeat(FRAMES, 1, 1)
        down, mid = stock_net(x[0], 500, text, pictures()[0], scale, return_dict=False)
        expected = stock_unet(
            x[0], 500, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-3)


@pytest.fixture
def calm(session: EditSession):
    """Random weights predict noise that changes wildly with x_t, which no inversion survives; a faint output
    layer is smooth."""
    weight = session.unet.image_unet.conv_out.weight
    weight.data.mul_(0.05)
    yield
    weight.data.div_(0.05)


@pytest.mark.usefixtures("calm")
def test_there_and_back_with_it_is_the_clip(model: ImageModel, session: EditSession) -> None:
    own = replace(session, structure=Structure(net=net_of(model), pictures=pictures()))

    def error(back: EditSession) -> float:
        found = back.reconstruct(start(own, fixed_point_steps=6), SOURCE, STEPS)
        return (found - own.latents).abs().max().item()

    assert error(own) < 1e-3
    assert error(session) > 0.1, "without it the way back is another"
    assert error(replace(own, structure=replace(own.structure, pictures=pictures(seed=5)))) > 2e-3, (
        "and with other pictures too"
    )


def test_it_has_addresses_and_may_read_other_frames(model: ImageModel, session: EditSession) -> None:
    """Seven self- and seven cross-attentions; the key-frame attention of one-shot ControlVideo acts inside it
    too."""
    with torch.device("meta"):
        sites = attention_sites(ControlNetModel.from_unet(blank_unet(Blank.SD15)))
    assert len(sites) == 14
    for kind in (AttentionKind.SELF, AttentionKind.CROSS):
        mine = [s for s in sites if s.kind is kind]
        assert [s.ordinal for s in mine] == list(range(7))
        assert [s.level for s in mine] == [0, 0, 1, 1, 2, 2, 3]
        assert [s.stage for s in mine].count(Stage.DOWN) == 6
    plain = Structure(net=net_of(model), pictures=pictures())
    reading = Structure(net=net_of(model), pictures=pictures(), keys=(FrameKeys(frames=[Frame.FIRST]),))
    assert len(reading.control.sites) == 14
    x, t, context = session.latents, torch.tensor([500]), session.text(SOURCE)
    moment = Moment(2, STEPS, 500, Direction.DENOISE, Rows())
    own, first = (s.residuals(x, t, context, moment).mid for s in (plain, reading))
    torch.testing.assert_close(own[0], first[0])
    assert not torch.allclose(own[1], first[1])
    assert control_of(session.unet) is not reading.control


@pytest.mark.parametrize(
    "recipe",
    [PromptToPrompt(num_steps=2), FateZero(num_steps=2, reconstruct=False)],
    ids=lambda r: type(r).__name__,
)
def test_methods_need_not_know(model: ImageModel, session: EditSession, recipe) -> None:
    """Frame by frame, in windows, with null-text: the session brings the net along."""
    own = replace(
        session,
        structure=Structure(net=net_of(model), pictures=pictures()),
        window=Sliding(num_frames=2, overlap=1),
    )
    done, without = recipe.edit(own), recipe.edit(replace(own, structure=None))
    assert done.latents.shape == own.latents.shape
    assert not torch.allclose(done.latents, without.latents)


def test_in_windows_each_frame_has_its_own_picture(model: ImageModel, session: EditSession) -> None:
    own = replace(session, structure=Structure(net=net_of(model), pictures=pictures()))
    context = own.text(SOURCE)
    rows = Rows(("text",), ("target",))

    def drawn(of: EditSession) -> torch.Tensor:
        from vgen.diffusion.guidance import Cfg

        return of.sample(of.noise, rows, lambda _: Context(context.tokens), Cfg(scale=1.0), 2)

    torch.testing.assert_close(
        drawn(replace(own, window=Sliding(num_frames=2, overlap=1))), drawn(own), atol=1e-4, rtol=1e-3
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
        ((FRAMES, 3, 64, 64), 1.0, "must be 1 f 3 H W"),
        ((1, FRAMES, 3, 64, 64), -1.0, "scale must be 0 or more, got -1.0"),
    ],
)
def test_pictures_that_do_not_fit_speak(
    model: ImageModel, session: EditSession, shape: tuple, scale: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(session, structure=Structure(net=net_of(model), pictures=torch.zeros(shape), scale=scale))


def test_a_net_of_another_image_model_is_refused(session: EditSession) -> None:
    other = ControlNetModel.from_unet(blank_unet(Blank.TOYBOX))
    with pytest.raises(
        ValueError,
        match=r"belongs to another image model \(block_out_channels \[48, 96, 128\], the UNet's is \[32, 64",
    ):
        replace(session, structure=Structure(net=other, pictures=pictures()))
