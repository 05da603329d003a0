"""Align your Latents: its size, the frames that it is given, and its decoder with a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import UNetSpatioTemporalConditionModel

from vgen.app.loading import UNTRAINED, open_checkpoint
from vgen.app.stacks import StackEntry
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.conditions.context_frames import CLEAN, GIVEN, ContextFrames, GivenFrames, WhichFrames
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import load_adapter
from vgen.methods import Recipe, assemble
from vgen.methods._objectives import Denoising
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.align_your_latents import AlignYourLatents
from vgen.methods.align_your_latents_decoder import AlignYourLatentsDecoder
from vgen.training.checkpoint_folder import AVERAGES, WEIGHTS, newest
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Spread, TrainerSettings, refuse_unfit

PREDICTION = GivenFrames(which=WhichFrames.FIRST, most=2)
INTERPOLATION = GivenFrames(which=WhichFrames.EVERY, factor=4)
SMALL = Sampling(num_frames=5, num_steps=2, guidance=2.0, width_px=64, height_px=64)
CRITIC = {"critic_channels": 4, "critic_depth": 2}


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_it_is_as_large_as_diffusers_layers_over_frames(tiny: ImageModel) -> None:
    """At Stable Diffusion 1.4's shapes, where the paper counts 649 M that are trained."""
    with torch.device("meta"):
        image = blank_unet(Blank.SD15)
        large = replace(tiny, unet=image)
        unet = assemble(AlignYourLatents(), large).unet
        theirs = UNetSpatioTemporalConditionModel(
            in_channels=4, cross_attention_dim=768, num_attention_heads=8
        )
    assert count(unet.inserted) == count(theirs) - count(theirs.add_embedding) - count(image)
    assert count(unet.inserted) == 649_687_078


# -- frames that are given -----------------------------------------------------------------------------------
def test_which_frames_are_given() -> None:
    how_many = torch.tensor([1, 2])
    first = PREDICTION.mask(4, how_many)
    assert first.tolist() == [[True, False, False, False], [True, True, False, False]]
    assert INTERPOLATION.mask(5, how_many).tolist() == [[True, False, False, False, True]] * 2
    assert not GivenFrames().mask(3, how_many).any()


def test_training_draws_how_many_frames_are_given() -> None:
    draws = Draws(0, [(f"s{i}", 0) for i in range(200)])
    counts = PREDICTION.drawn(draws, torch.zeros(200, 4, 4, 2, 2)).sum(1)
    assert counts.unique().tolist() == [1, 2]
    assert 70 < int((counts == 1).sum()) < 130


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a factor that does not divide": (
        partial(INTERPOLATION.refuse_unfit, 8),
        r"context.factor=4 does not divide the 7 steps .* take clips of 5 frames",
    ),
    "context longer than the clip": (
        partial(PREDICTION.refuse_unfit, 2),
        r"context.most=2 frames are given of clips of 2, which leaves none to draw",
    ),
    "no frame at all": (partial(GivenFrames, most=0), "must be at least 1 frame, got 0"),
    "a factor of one": (partial(GivenFrames, factor=1), "must be at least 2, got 1"),
    "dropping more than there is": (
        partial(AlignYourLatents, context_drop=0.6),
        "context_drop is taken twice beside text_drop=0.1",
    ),
    "a critic of nothing": (partial(AlignYourLatentsDecoder, critic_depth=0), "at least 1 channel and 1"),
    "a negative weight": (partial(AlignYourLatentsDecoder, adversarial=-1), "must be 0 or more, got -1"),
}


@pytest.mark.parametrize(("made", "words"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_means_nothing_is_refused_in_a_sentence(made: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()


@torch.no_grad()
def test_a_row_that_drops_its_context_is_told_of_none(tiny: ImageModel) -> None:
    video_model = assemble(AlignYourLatents(context=PREDICTION), tiny)
    net, condition = video_model.modules["context"], ContextFrames()
    latents = torch.randn(2, 3, 4, 8, 8)
    given = PREDICTION.mask(3, torch.tensor([1, 2]))
    told = condition.encode(tiny, net, {"latents": latents, GIVEN: given})
    of_none = condition.encode(tiny, net, {"latents": latents, GIVEN: torch.zeros_like(given)})
    dropped = told.where(torch.tensor([True, False]))
    for level, maps in told.frames.items():
        torch.testing.assert_close(dropped.frames[level][0], maps[0])
        torch.testing.assert_close(dropped.frames[level][1], of_none.frames[level][1])
    with pytest.raises(ValueError, match="give one truth for every frame"):
        condition.encode(tiny, net, {"latents": latents, GIVEN: given[:, :2]})


def loud(recipe: Recipe, model: ImageModel) -> Any:
    """A video model whose layers all say something."""
    torch.manual_seed(0)
    video_model = assemble(recipe, model)
    with torch.no_grad():
        for name, p in video_model.unet.inserted.named_parameters():
            p.fill_(0.5) if "mix_factor" in name else p.add_(0.02 * torch.randn_like(p))
    return video_model


@pytest.mark.parametrize("scale", [1.0, 3.0])
@torch.no_grad()
def test_what_is_given_is_seen_in_what_is_drawn(tiny: ImageModel, scale: float) -> None:
    recipe = AlignYourLatents(context=INTERPOLATION, context_guidance=scale)
    video_model = loud(recipe, tiny)
    side = 64 // tiny.vae_factor
    clean = torch.randn(1, 5, 4, side, side)
    given = INTERPOLATION.mask(5, torch.tensor([1]))

    def drawn(clean: torch.Tensor) -> torch.Tensor:
        return generate(video_model, [Prompt("a red circle", 0)], SMALL, more={CLEAN: clean, GIVEN: given})

    first = drawn(clean)
    between = clean.clone()
    between[:, 1:4] += 1
    assert torch.equal(drawn(between), first), "frames that are not given are not seen"
    assert not torch.allclose(drawn(clean + given[..., None, None, None]), first, atol=1e-3)
    nothing = generate(video_model, [Prompt("a red circle", 0)], SMALL)
    assert not torch.allclose(nothing, first, atol=1e-3)


def test_checkpointed_is_plain_with_stills_and_clips_in_one_backward(tiny: ImageModel) -> None:
    """Two forwards of other lengths and other context before one backward."""
    model = tiny.to("cpu", torch.float64)
    grads = []
    for checked in (False, True):
        video_model = loud(AlignYourLatents(context=GivenFrames(which=WhichFrames.FIRST, most=1)), model)
        video_model.unet.double()
        video_model.modules.double()
        if checked:
            video_model.enable_gradient_checkpointing()
        draw = torch.Generator().manual_seed(4)
        total = torch.zeros(())
        for frames in (1, 3):
            latents = torch.randn(2, frames, 4, 8, 8, generator=draw, dtype=torch.float64)
            given = torch.tensor([[True] + [False] * (frames - 1)] * 2)
            fields = {"caption": ["a red circle", "a blue star"], "latents": latents, GIVEN: given}
            encoded = video_model.encode(video_model.prepare(fields))
            noise = torch.randn(latents.shape, generator=draw, dtype=torch.float64)
            errors = Denoising().errors(video_model, encoded, latents, torch.tensor([9, 800]), noise)
            total = total + errors.sum()
        total.backward()
        learnt = [*video_model.unet.inserted.named_parameters(), *video_model.modules.named_parameters()]
        grads.append({name: p.grad.clone() for name, p in learnt if p.grad is not None})
        video_model.eject()
        model.unet.disable_gradient_checkpointing()
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) > 100
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=1e-5, atol=1e-7)


# -- the decoder ---------------------------------------------------------------------------------------------
def clips(num: int = 2, frames: int = 2, side: int = 32) -> Batch:
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 255, (num, frames, 3, side, side), dtype=torch.uint8, generator=draw)
    return Batch(keys=[(f"s{i}", 0) for i in range(num)], captions=[""] * num, video=video)


def test_one_loss_gives_both_sides_the_gradients_of_two(tiny: ImageModel) -> None:
    """The decoder's gradient is that of its own terms with the critic held, the critic's that of the
    hinge."""
    recipe = AlignYourLatentsDecoder(adversarial=0.7, **CRITIC)
    learner = Learner(recipe, blank(Blank.TOYBOX, seed=0), Optimisation(), seed=0, max_steps=1)
    batch, video_model = clips(), learner.video_model
    for p in [p for n, p in learner.learning.items() if "mix_factor" in n]:
        p.data.fill_(0.5)
    out = learner.objective.loss(video_model, batch, Draws(0, batch.keys))
    out["loss"].backward()
    together = {name: p.grad.clone() for name, p in learner.learning.items() if p.grad is not None}
    assert together.keys() == learner.learning.keys()
    learner.zero_grad()
    real = batch.pixels(torch.device("cpu"))
    model, critic = video_model.model, video_model.modules["critic"]
    with torch.no_grad():
        latents = model.unscaled(model.encode(real))
    made = video_model.modules["vae"](latents)
    ours = {n: p for n, p in learner.learning.items() if n.startswith("vae.")}
    of_decoder = torch.autograd.grad(
        (made - real).abs().mean() - 0.7 * critic(made).mean(), list(ours.values())
    )
    for name, grad in zip(ours, of_decoder, strict=True):
        torch.testing.assert_close(together[name], grad)
    hinge = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(made.detach())).mean()
    theirs = {n: p for n, p in learner.learning.items() if n.startswith("critic.")}
    for name, grad in zip(theirs, torch.autograd.grad(hinge, list(theirs.values())), strict=True):
        torch.testing.assert_close(together[name], grad)


@torch.no_grad()
def test_a_new_decoder_gives_what_the_image_models_gives(tiny: ImageModel) -> None:
    latents = torch.randn(2, 3, 4, 8, 8)
    before = tiny.decode(latents)
    video_model = assemble(AlignYourLatentsDecoder(), tiny)
    torch.testing.assert_close(video_model.decode(latents), before)
    video_model.eject()
    assert torch.equal(tiny.decode(latents), before)


def job(recipe: Recipe, shards: Path, folder: Path, steps: int, **more: Any) -> Job:
    return Job(
        recipe=recipe,
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(path=str(shards), window=Window(num_frames=3), batch_size=2, val_clips=4),
        optimisation=Optimisation(lr=1e-3, ema_decay=0.9),
        settings=TrainerSettings(
            max_steps=steps,
            val_every_steps=2,
            checkpoint_every_steps=1,
            log_every_steps=1,
            num_threads=1,
            gradient_checkpointing=True,
        ),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name="run",
        seed=3,
        plain={},
        **{"resume": False, **more},
    )


def test_a_decoder_learns_with_its_critic_and_leaves_without_it(toy_shards: Path, tmp_path: Path) -> None:
    """Pre-flight, three steps of which one is resumed, the file, and a clip drawn with it in a stack."""
    recipe, folder = AlignYourLatentsDecoder(**CRITIC), tmp_path / "run"
    fit(job(recipe, toy_shards, folder, 2))
    fit(job(recipe, toy_shards, folder, 3, resume=True))
    tensors, card = load_adapter(folder / "adapter.safetensors")
    assert all(name.startswith("vae.inserted.") for name in tensors)
    found, _ = newest(folder / "checkpoints")
    assert found is not None
    assert any(name.startswith("critic.") for name in found.names[WEIGHTS])
    assert not any(name.startswith("critic.") for name in found.names[AVERAGES])
    assert card.recipe == "align_your_latents_decoder"
    stack = [StackEntry(name="decoder", file=str(folder))]
    checkpoint = open_checkpoint(UNTRAINED, "blank:toybox:0", untrained=AlignYourLatents(), stack=stack)
    assert "critic" not in checkpoint.video_model.components()
    small = Sampling(num_frames=3, num_steps=1, guidance=1.0, width_px=32, height_px=32)
    assert checkpoint.sample([Prompt("a red circle", 0)], small).shape == (1, 3, 3, 32, 32)


def test_weights_in_parts_have_no_adversary() -> None:
    apart = TrainerSettings(strategy=Spread.ZERO3)
    against = AlignYourLatentsDecoder().adversaries()
    with pytest.raises(ValueError, match="has an adversary, critic, that judges with whole weights"):
        refuse_unfit(apart, Optimisation(), False, against)


def test_a_prediction_model_trains_and_comes_back(toy_shards: Path, tmp_path: Path) -> None:
    recipe = AlignYourLatents(context=PREDICTION)
    fit(job(recipe, toy_shards, tmp_path / "run", 2))
    checkpoint = open_checkpoint(str(tmp_path / "run"), "blank:toybox:0")
    assert checkpoint.recipe == recipe
    assert {name.split(".")[0] for name in load_adapter(tmp_path / "run" / "adapter.safetensors")[0]} == {
        "context",
        "unet",
    }
