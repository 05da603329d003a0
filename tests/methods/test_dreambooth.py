"""Laws of DreamBooth: the loss is the published one, what it writes lies beneath every video method."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from vgen.app.pieces import Published, assembled, knobs_of, recognised
from vgen.app.show import _shapes
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.image_model import ImageModel
from vgen.backbones.image_model_folder import load, save
from vgen.data.batch import Batch
from vgen.data.mixture import PRIOR
from vgen.diffusion.draws import Draws
from vgen.formats import low_rank, state_file
from vgen.formats.adapter import Card, put
from vgen.formats.foreign import Learnt, Source
from vgen.layers.lora import LowRankSpec
from vgen.methods import Recipe, assemble, catalogue, given_low_rank
from vgen.methods._assembly import Part, assemble_stack, beneath
from vgen.methods._low_rank import Target
from vgen.methods.dreambooth import DreamBooth
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.preflight import preflight

SMALL = LowRankSpec(rank=2)
LOW_RANK = DreamBooth(
    targets=[Target(layer=SMALL), Target(into="text_encoder", paths=["*.q_proj", "*.v_proj"], layer=SMALL)]
)
WAYS = {"whole": DreamBooth(), "with text": DreamBooth(text_encoder=True), "low rank": LOW_RANK}
every_way = pytest.mark.parametrize("recipe", list(WAYS.values()), ids=list(WAYS))
VIDEO_METHODS = [name for name, cls in catalogue().items() if cls.regime.value in ("corpus", "clip", "edit")]


def batch(prior: bool = True) -> Batch:
    """Two pictures of a subject, and two of its class."""
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (4, 1, 3, 128, 128), generator=draw, dtype=torch.uint8)
    captions = ["a large sks circle"] * 2 + ["a large circle"] * 2
    fields = {PRIOR: torch.tensor([False, False, True, True])} if prior else {}
    return Batch([(name, 0) for name in "abcd"], captions, video=video, fields=fields)


def learner_of(recipe: Recipe, model: ImageModel) -> Learner:
    return Learner(recipe, model, Optimisation(lr=1e-2), seed=0, max_steps=3)


def published(model: ImageModel, given: Batch, seed: int, prior_weight: float) -> torch.Tensor:
    """The formula of diffusers' train_dreambooth.py on vgen's draws: one forward of both halves, chunked."""
    draws, scheduler = Draws(seed, given.keys), DDPMScheduler.from_config(model.scheduler_config)
    with torch.no_grad():
        latents = model.encode(given.pixels(torch.device("cpu"))).float()[:, 0]
    t = draws.integers("timestep", 1000, torch.device("cpu"))
    noise = draws.normal("noise", latents[:, None])[:, 0]
    noisy = scheduler.add_noise(latents, noise, t)
    states = model.text_encoders[0](model.tokenize(given.captions)).last_hidden_state
    predicted = model.unet(noisy, t, states).sample
    (own, known), (own_noise, known_noise) = predicted.chunk(2), noise.chunk(2)
    return F.mse_loss(own, own_noise) + prior_weight * F.mse_loss(known, known_noise)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_the_loss_and_its_gradients_are_the_published_ones(tiny: ImageModel, text_encoder: bool) -> None:
    recipe = DreamBooth(prior_weight=0.7, text_encoder=text_encoder)
    learner = learner_of(recipe, tiny)
    ours = learner.objective.loss(learner.video_model, batch(), Draws(0, batch().keys))
    theirs = published(tiny, batch(), 0, 0.7)
    torch.testing.assert_close(ours["loss"], theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["loss"], ours["subject"] + 0.7 * ours[PRIOR])
    wanted = torch.autograd.grad(theirs, list(learner.learning.values()))
    ours["loss"].backward()
    for (name, parameter), gradient in zip(learner.learning.items(), wanted, strict=True):
        assert parameter.grad is not None
        error = (parameter.grad - gradient).norm()
        assert error < 1e-3 * gradient.norm() + 1e-6, name  # biases of keys have none but rounding


@every_way
def test_exactly_what_it_says_gets_a_gradient(recipe: DreamBooth, tiny: ImageModel) -> None:
    """With a prior beside the subject, and in validation without one."""
    learner = learner_of(recipe, tiny)
    assert preflight(learner, batch()) == len(learner.learning)
    alone = learner.objective.loss(learner.video_model, batch(prior=False), Draws(0, batch().keys))
    assert list(alone) == ["loss"]


@every_way
def test_recomputed_gradients_are_the_same(recipe: DreamBooth, tiny: ImageModel) -> None:
    learner = learner_of(recipe, tiny)

    def gradients() -> dict[str, torch.Tensor]:
        learner.zero_grad(set_to_none=True)
        learner.objective.loss(learner.video_model, batch(), Draws(0, batch().keys))["loss"].backward()
        return {name: p.grad.clone() for name, p in learner.learning.items() if p.grad is not None}

    plain = gradients()
    learner.parts.train()
    learner.video_model.enable_gradient_checkpointing()
    again = gradients()
    assert plain.keys() == again.keys() == learner.learning.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-3)


def test_a_whole_model_or_an_adapter_is_written() -> None:
    assert DreamBooth().writes() == (False, True)
    assert DreamBooth(text_encoder=True).writes() == (False, True)
    assert LOW_RANK.writes() == (True, False)


def test_at_the_shapes_of_stable_diffusion_as_many_numbers_learn() -> None:
    """All of diffusers' class; by rank 4 on attention the 797,184 of diffusers' published LoRAs."""
    counts = []
    for recipe in (DreamBooth(), DreamBooth(targets=[Target(layer=LowRankSpec(rank=4))])):
        with torch.device("meta"):
            unet = assemble(recipe, _shapes("sd15")).unet
            theirs = blank_unet(Blank.SD15)
        named = {f"unet.{name}": p for name, p in unet.named_parameters()}
        hits = [p.numel() for n, p in named.items() if any(fnmatchcase(n, x) for x in recipe.learns())]
        counts.append(sum(hits))
    assert counts == [sum(p.numel() for p in theirs.parameters()), 797_184]


@torch.no_grad()
def changed(recipe: DreamBooth, model: ImageModel) -> Learner:
    learner = learner_of(recipe, model)
    torch.manual_seed(1)
    for p in learner.learning.values():
        p.add_(0.05 * torch.randn_like(p))
    return learner


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO_METHODS)
def test_both_lie_beneath_every_video_method(name: str, tiny: ImageModel, tmp_path: Path) -> None:
    """The low-rank layers, as another program's file, beside any recipe: all of them stand in its UNet."""
    learnt = of_learner(changed(LOW_RANK, copy.deepcopy(tiny)), tiny)
    LOW_RANK.formats[1].write(tmp_path / "dog.safetensors", learnt)
    entries, metadata = state_file.read(tmp_path / "dog.safetensors")
    tensors, layers = given_low_rank(entries, metadata, tiny)
    recipe = catalogue()[name]()
    parts = [*beneath(recipe), Part("", recipe), Part("dog", layers)]
    video_model = assemble_stack(parts, tiny)
    put(video_model.components(), tensors, layers.learns(), "dog", "dog")
    heard = [key for key in video_model.unet.inserted if key.endswith("@lora+dog")]
    assert len(heard) == sum("unet" in key for key in tensors) // 2
    video_model.eject()


@pytest.mark.parametrize("recipe", [DreamBooth(), DreamBooth(text_encoder=True)], ids=["unet", "text"])
def test_an_image_model_that_was_written_is_one(recipe: DreamBooth, tiny: ImageModel, tmp_path: Path) -> None:
    """What learnt is in the folder, everything else as it was, and every video method stands on it."""
    fresh = copy.deepcopy(tiny)
    learner = changed(recipe, tiny)
    save(tiny, tmp_path / "model", torch.float32)
    again = load(tmp_path / "model").freeze()
    for part, module in again.components().items():
        same = all(
            torch.equal(v, fresh.components()[part].state_dict()[n]) for n, v in module.state_dict().items()
        )
        assert same is (part not in recipe.engages())
    for name, value in learner.learning.items():
        part, _, inner = name.replace("unet.image_unet.", "unet.").partition(".")
        assert torch.equal(again.components()[part].state_dict()[inner], value)
    for method in VIDEO_METHODS:
        above = catalogue()[method]()
        assemble_stack([*beneath(above), Part("", above)], again).eject()


def of_learner(learner: Learner, model: ImageModel) -> Learnt:
    recipe = learner.recipe
    return Learnt(
        tensors={name: value.detach().clone() for name, value in learner.learning.items()},
        knobs=knobs_of(recipe),
        card=Card.of("dreambooth", recipe, model, {}, {}),
        model=model,
        assembled=lambda knobs, tensors: assembled(DreamBooth, model, knobs, tensors),
    )


def test_files_that_do_not_say_whose_they_are_stay_those_of_lora(tiny: ImageModel, tmp_path: Path) -> None:
    """A kohya file is read by whoever read it before, and its tensors are those that were learnt."""
    learnt = of_learner(changed(LOW_RANK, copy.deepcopy(tiny)), tiny)
    path = tmp_path / "dog.safetensors"
    rows = LOW_RANK.formats[1].write(path, learnt)
    assert ("read by diffusers" in dict(rows)) is True
    assert recognised(Source(str(path), path))[0] == "lora"
    tensors, _ = given_low_rank(*state_file.read(path), tiny)
    assert all(torch.equal(tensors[name], value) for name, value in learnt.tensors.items())
    assert low_rank.recognises(state_file.read(path)[0])


def test_a_folder_that_says_whose_it_is_comes_back_with_its_knobs(tiny: ImageModel, tmp_path: Path) -> None:
    """By the card in it, though another method has a format of the same name before it."""
    recipe = DreamBooth(identifier="ohwx", targets=[Target(layer=SMALL)])
    learnt = of_learner(changed(recipe, copy.deepcopy(tiny)), tiny)
    recipe.formats[0].write(tmp_path / "dog", learnt)
    piece = Published(str(tmp_path / "dog")).opened("blank:sd15_narrow:0")
    assert isinstance(piece.recipe, DreamBooth)
    assert piece.recipe.identifier == "ohwx"
    assert piece.tensors.keys() == learnt.tensors.keys()


def test_what_means_nothing_is_refused(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"identifier=s is a word that the text encoder knows well \(token"):
        DreamBooth(identifier="s").objective(tiny)
    DreamBooth(identifier="").objective(tiny)
    with pytest.raises(ValueError, match="prior_weight must be 0 or more, got -1"):
        DreamBooth(prior_weight=-1)
    with pytest.raises(ValueError, match="least_pictures must be at least 1, got 0"):
        DreamBooth(least_pictures=0)
    with pytest.raises(ValueError, match="name it among the targets"):
        DreamBooth(targets=[Target()], text_encoder=True)
    with pytest.raises(ValueError, match="text_encoder=true lets one text encoder learn, and image model"):
        DreamBooth(text_encoder=True).objective(blank(Blank.SDXL_NARROW, seed=0))
    assert assemble(DreamBooth(), tiny).needed == frozenset({"text"})
