"""Laws that every recipe obeys. A new method gets them by being in the catalogue."""
from __future__ import annotations

import copy
import fnmatch
import pickle
from dataclasses import asdict

import pytest
import torch
from omegaconf import OmegaConf

from vgen.app.plain import from_plain
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.video_unet import VideoUNet
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import plain
from vgen.methods import Recipe, assemble, catalogue
from vgen.methods._objectives import Batch
from vgen.training.learner import Learner, select
from vgen.training.optimisation import Optimisation

learning = pytest.mark.parametrize("recipe", [cls() for cls in catalogue().values() if cls().learns()], ids=lambda r: type(r).__name__)
every_method = pytest.mark.parametrize("recipe", [cls() for cls in catalogue().values()], ids=list(catalogue()))
inserting = pytest.mark.parametrize(
    "recipe", [cls() for cls in catalogue().values() if list(cls().insertions())], ids=lambda r: type(r).__name__
)
FRAMES = 3


def clip(model: ImageModel) -> tuple[torch.Tensor, torch.Tensor, Context]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, FRAMES, 4, 8, 8, generator=generator)
    return x.to(model.unet.dtype), torch.tensor([7, 700]), model.encode_text(["a red circle", "two blue squares"])


def stir(unet: VideoUNet) -> None:
    """Give every inserted layer something to say."""
    torch.manual_seed(3)
    for p in unet.inserted.parameters():
        torch.nn.init.normal_(p, std=0.2)


@inserting
@torch.no_grad()
def test_born_silent(recipe: Recipe, tiny: ImageModel) -> None:
    x, t, context = clip(tiny.to("cpu", torch.float64))
    if recipe.attention_keys():  # on a still clip all frames have the same keys
        x = x[:, :1].expand_as(x).contiguous()
    per_frame = torch.stack([tiny.unet(x[:, i], t, context.tokens).sample for i in range(FRAMES)], 1)
    torch.testing.assert_close(assemble(recipe, tiny).double()(x, t, context), per_frame)


@inserting
def test_backbone_keys_survive(recipe: Recipe, tiny: ImageModel) -> None:
    before = list(tiny.unet.state_dict())
    assert list(assemble(recipe, tiny).image_unet.state_dict()) == before


@inserting
@torch.no_grad()
def test_eject_restores_bitwise(recipe: Recipe, tiny: ImageModel) -> None:
    x, t, context = clip(tiny)
    before = tiny.unet(x[:, 0], t, context.tokens).sample
    unet = assemble(recipe, tiny)
    stir(unet)
    unet(x, t, context)
    unet.eject()
    assert torch.equal(tiny.unet(x[:, 0], t, context.tokens).sample, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.unet.modules())


@inserting
@torch.no_grad()
def test_frames_do_mix(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny)
    stir(unet)
    x, t, context = clip(tiny)
    y = x.clone()
    y[:, 2] += 1
    assert not torch.allclose(unet(x, t, context)[:, 1], unet(y, t, context)[:, 1])


@inserting
@torch.no_grad()
def test_clips_do_not_mix(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny).double()
    stir(unet)
    x, t, context = clip(tiny.to("cpu", torch.float64))
    torch.testing.assert_close(unet(x.flip(0), t.flip(0), context[[1, 0]]), unet(x, t, context).flip(0))


@inserting
@torch.no_grad()
def test_copy_and_pickle_are_independent(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny)
    x, t, context = clip(tiny)
    silent = unet(x, t, context)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(unet)))
    torch.testing.assert_close(twin(x, t, context), silent)
    stir(twin)
    assert not torch.allclose(twin(x, t, context), silent), "the copy's hooks must run the copy's layers"
    torch.testing.assert_close(unet(x, t, context), silent)


@every_method
def test_config_round_trips(recipe: Recipe) -> None:
    cls = type(recipe)
    assert OmegaConf.to_object(OmegaConf.structured(cls)) == recipe
    assert from_plain(cls, plain(asdict(recipe))) == recipe


@learning
def test_exactly_what_learns_changes(recipe: Recipe) -> None:
    from vgen.backbones.blank import Blank, blank

    model = blank(Blank.TOYBOX, seed=0)
    learner = Learner(recipe, model, Optimisation(lr=1e-2), seed=0, max_steps=3)
    for pattern in recipe.learns():
        assert fnmatch.filter(dict(learner.parts.named_parameters()), pattern)
    everything = {f"{name}.{n}": p for name, module in model.components().items() for n, p in module.named_parameters()}
    everything |= {f"parts.{n}": p for n, p in learner.parts.named_parameters()}
    before = {n: p.detach().clone() for n, p in everything.items()}
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 3)
    batch = Batch(
        keys=[("a", 0), ("b", 0)], captions=["a small red circle rests", "a large blue star moves up fast"],
        video=torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8),
    )
    if recipe.engages() == ("image_encoder",):
        batch.video = torch.randint(0, 255, (2, 1, 3, 64, 64), dtype=torch.uint8)
    for _ in range(2):  # a layer born silent passes gradient upstream from its second step on
        optimiser.zero_grad()
        learner.objective.loss(model, learner.unet, batch, Draws(0, batch.keys))["loss"].backward()
        optimiser.step()
    ids = {id(p) for p in learner.learning.values()}
    for name, parameter in everything.items():
        assert id(parameter) in ids or torch.equal(parameter, before[name]), f"{name} changed but does not learn"
    still = [n for n, p in learner.learning.items() if torch.equal(p, before[f"parts.{n}"])]
    assert len(still) <= 0.02 * len(learner.learning), f"learn but did not change: {still[:5]}"


def test_a_pattern_that_hits_nothing_is_an_error(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match="matches none of"):
        select(torch.nn.ModuleDict({"unet": tiny.unet}), ("unet.inserted.*",))
