"""Low-rank layers in nets: on the image UNet, on its text encoder, inside other layers, several at once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import Card, load_adapter, put, save_adapter
from vgen.layers.lora import LowRank, LowRankSpec, merge
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import VideoModel, assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods._low_rank import Target
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.domain_adapter import DomainAdapter
from vgen.methods.lora import Lora
from vgen.methods.motion_lora import MotionLora
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.preflight import preflight

SMALL = LowRankSpec(rank=3)
MOTION = AnimateDiff(motion=MotionModuleSpec(heads=4))
WORDS = "text_encoder"
PROMPTS = ["a large red circle", "a small blue star"]


def text_target() -> Target:
    return Target(into=WORDS, paths=["*.q_proj", "*.fc1"], layer=SMALL)


def both() -> Lora:
    convolved = Target(paths=["*.conv1", "*.proj_in", "*.downsamplers.0.conv"], layer=SMALL)
    return Lora(targets=[Target(layer=SMALL), convolved, text_target()])


@torch.no_grad()
def stir(video_model: VideoModel, std: float = 0.2) -> None:
    torch.manual_seed(3)
    for net in video_model.nets().values():
        for p in net.inserted.parameters():
            torch.nn.init.normal_(p, std=std)


@torch.no_grad()
def said(video_model: VideoModel, frames: int = 2) -> Tensor:
    x = torch.randn(2, frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = video_model.model.encode_text(PROMPTS)
    return video_model.unet(x, torch.tensor([7, 700]), Conditioning(text))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    video = torch.randint(0, 255, (2, 2, 3, 128, 128), generator=generator, dtype=torch.uint8)
    return Batch(keys=[("a", 0), ("b", 0)], captions=PROMPTS, video=video)


def merge_all(video_model: VideoModel) -> ImageModel:
    """A copy of the image model with every low-rank layer in its weights."""
    twin = copy.deepcopy(video_model.model)
    for name, net in video_model.nets().items():
        for key, layer in net.inserted.items():
            assert isinstance(layer, LowRank)
            path = key.partition("@")[0].replace("/", ".")
            merge(twin.components()[name].get_submodule(path).weight, [layer])
    return twin


def test_merged_into_the_image_model_is_run_beside_it(tiny: ImageModel) -> None:
    bare = copy.deepcopy(tiny)
    video_model = assemble(both(), tiny)
    assert torch.equal(said(video_model), said(assemble(Lora(), bare)))
    stir(video_model)
    twin = merge_all(video_model)
    for net in twin.modules():
        for module in net.modules():
            module._forward_hooks.clear()
    torch.testing.assert_close(said(video_model), said(assemble(Lora(), twin)), atol=2e-5, rtol=1e-4)


def test_ejected_the_image_model_is_as_it_came(tiny: ImageModel) -> None:
    before = tiny.encode_text(PROMPTS).tokens
    video_model = assemble(both(), tiny)
    stir(video_model)
    assert not torch.allclose(tiny.encode_text(PROMPTS).tokens, before)
    video_model.eject()
    assert torch.equal(tiny.encode_text(PROMPTS).tokens, before)


def test_the_empty_prompt_hears_a_layer_in_the_text_encoder(tiny: ImageModel) -> None:
    bare = tiny.empty_text().tokens
    video_model = assemble(Lora(targets=[text_target()]), tiny)
    stir(video_model)
    assert not torch.allclose(tiny.empty_text().tokens, bare)
    video_model.eject()
    assert torch.equal(tiny.empty_text().tokens, bare)


def test_layers_in_unet_and_text_encoder_learn_and_come_back(tiny: ImageModel, tmp_path: Path) -> None:
    fresh, recipe = copy.deepcopy(tiny), both()
    learner = Learner(recipe, tiny, Optimisation(lr=1e-2), seed=0, max_steps=3)
    assert recipe.writes() == (True, False)
    assert preflight(learner, batch()) == len(learner.learning)
    assert any(name.startswith(f"{WORDS}.inserted.") for name in learner.learning)
    stir(learner.video_model)
    save_adapter(tmp_path / "a.safetensors", learner.learning, Card.of("lora", recipe, tiny, {}, {}))
    again = assemble(recipe, fresh)
    put(again.components(), load_adapter(tmp_path / "a.safetensors")[0], recipe.learns())
    assert torch.equal(said(again), said(learner.video_model))


def stacked(model: ImageModel, *parts: Part) -> VideoModel:
    torch.manual_seed(0)
    return assemble_stack(parts, model)


def test_all_stages_stack_in_any_order(tiny: ImageModel) -> None:
    parts = [
        Part("domain", DomainAdapter(layer=SMALL), 0.5),
        Part("motion", MOTION),
        Part("pan", MotionLora(layer=SMALL), 0.8),
        Part("zoom", MotionLora(layer=LowRankSpec(rank=2))),
    ]
    ways = []
    for order in (parts, parts[::-1]):
        model = copy.deepcopy(tiny)
        video_model = stacked(model, *order)
        with torch.no_grad():
            for name, p in sorted(video_model.unet.inserted.named_parameters()):
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
        ways.append(said(video_model, frames=3))
    torch.testing.assert_close(ways[0], ways[1], atol=1e-4, rtol=1e-4)


def test_two_motion_loras_add_up(tiny: ImageModel) -> None:
    """The weights of the motion module with both merged give what both give beside it."""
    pair = [Part("pan", MotionLora(layer=SMALL), 0.8), Part("zoom", MotionLora(layer=SMALL), -0.5)]
    bare = copy.deepcopy(tiny)
    video_model = stacked(tiny, Part("", MOTION), *pair)
    stir(video_model, 0.1)
    alone = stacked(bare, Part("", MOTION))
    layers = video_model.unet.inserted
    own = {name: value for name, value in layers.state_dict().items() if "@" not in name}
    alone.unet.inserted.load_state_dict(own)
    assert not torch.allclose(said(alone), said(video_model), atol=1e-3)
    for key, layer in layers.items():
        if isinstance(layer, LowRank):
            host = alone.unet.get_submodule(_inside(key, alone))
            merge(host.weight, [layer])
    torch.testing.assert_close(said(alone), said(video_model), atol=2e-5, rtol=1e-4)


def _inside(key: str, video_model: VideoModel) -> str:
    """The path of the projection beside which the layer ``key`` stands."""
    place = key.partition("@")[0].removeprefix("inserted/")
    home = next(home for home in video_model.unet.inserted if place.startswith(f"{home}/"))
    return f"inserted.{home}.{place.removeprefix(f'{home}/').replace('/', '.')}"


def test_a_motion_lora_learns_alone_over_the_stages_beneath(tiny: ImageModel) -> None:
    below = [Part("motion", MOTION), Part("domain", DomainAdapter(layer=SMALL))]
    learner = Learner(MotionLora(layer=SMALL), tiny, Optimisation(), seed=0, max_steps=3, beneath=below)
    modules = sum("@lora" not in key for key in learner.unet.inserted)
    assert len(learner.learning) == 2 * 8 * modules
    assert preflight(learner, batch()) == len(learner.learning)


@pytest.mark.parametrize("recipe", [DomainAdapter(layer=SMALL), MotionLora(layer=SMALL)], ids=str)
def test_recomputed_gradients_are_the_same(recipe: DomainAdapter | MotionLora, tiny: ImageModel) -> None:
    below = [Part("motion", MOTION)] if isinstance(recipe, MotionLora) else []
    learner = Learner(recipe, tiny, Optimisation(), seed=0, max_steps=3, beneath=below)
    stir(learner.video_model)

    def gradients() -> dict[str, Tensor]:
        learner.zero_grad(set_to_none=True)
        learner.objective.loss(learner.video_model, batch(), Draws(0, batch().keys))["loss"].backward()
        return {name: p.grad.clone() for name, p in learner.learning.items() if p.grad is not None}

    plain = gradients()
    learner.unet.train()
    learner.video_model.enable_gradient_checkpointing()
    again = gradients()
    assert plain.keys() == again.keys() == learner.learning.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-3)


def test_a_domain_adapter_sees_stills(tiny: ImageModel) -> None:
    """Over a motion module too: what it is taught by one frame is not what the others say."""
    drops = DomainAdapter().dropout()
    assert sum(drop.share for drop in drops) == 1
    assert all("time" in drop.dropped for drop in drops)


def test_a_motion_lora_without_a_motion_module_is_refused(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"0 projections .* stack\.motion\.file=FILE"):
        assemble_stack([Part("pan", MotionLora())], tiny)


def test_a_published_motion_lora_has_as_many_parameters() -> None:
    """19.33 M, which is the size of the published files; 25.51 M of the domain adapter."""
    from vgen.app.show import describe

    assert "19,333,120 parameters" in describe("motion_lora", {}, "sd15")
    assert "25,509,888 parameters" in describe("domain_adapter", {}, "sd15")
