"""Laws that every recipe obeys, as it comes and with other knobs. A new method gets them by being in the
catalogue."""

from __future__ import annotations

import copy
import fnmatch
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from vgen.app.plain import from_plain
from vgen.attention.keys import Frame
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.silent import Silent
from vgen.backbones.video_unet import VideoControlNet, VideoUNet
from vgen.conditions.context_frames import GivenFrames, WhichFrames
from vgen.conditions.fps import FrameRates
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import NOTHING, TIME, Drop
from vgen.diffusion.inversion import NullText
from vgen.diffusion.step_window import StepWindow
from vgen.formats.adapter import Card, load_adapter, plain, put, save_adapter
from vgen.layers.branch_lora import BranchLowRankSpec
from vgen.layers.canonical_field import FieldKind, VideoFieldSpec
from vgen.layers.edit_layer import EditLayerSpec
from vgen.layers.lora import LowRank
from vgen.layers.mixed_attention import MixedAttentionSpec
from vgen.layers.motion_module import MotionModuleSpec
from vgen.layers.norm import NormScope
from vgen.layers.pseudo3d import PseudoAttentionSpec
from vgen.layers.temporal_attention import TemporalAttentionSpec
from vgen.methods import Recipe, Regime, assemble, catalogue, name_of
from vgen.methods._assembly import beneath
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import heard, start_noise
from vgen.methods._recipe import UNET
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods._wishes import Wish
from vgen.methods.disco import Lesson
from vgen.training.learner import Learner, select
from vgen.training.optimisation import Optimisation

KNOBS: dict[str, dict[str, dict[str, Any]]] = {
    "align_your_latents": {
        "prediction": {"context": GivenFrames(which=WhichFrames.FIRST, most=1)},
        "one head": {"attention": MixedAttentionSpec(heads=1)},
    },
    "animatediff": {
        "mid block": {"mid_block": True},
        "two blocks": {"motion": MotionModuleSpec(num_blocks=2)},
        "one attention": {"motion": MotionModuleSpec(num_attentions=1, heads=4)},
        "norms of the clip": {"motion": MotionModuleSpec(norm_scope=NormScope.CLIP)},
        "noisier": {"timestep_shift": 3.0, "text_drop": 0.0},
    },
    "autoencoder": {"decoder": {"decoder_only": True}},
    "latent_diffusion": {"noisier": {"timestep_shift": 3.0}},
    "disco": {"attributes": {"lesson": Lesson.ATTRIBUTES}},
    "make_a_video": {
        "extrapolator": {
            "context": GivenFrames(which=WhichFrames.FIRST, most=1),
            "rates": FrameRates(max_skip=1),
        },
        "one head": {"attention": PseudoAttentionSpec(heads=1)},
    },
    "tune_a_video": {
        "four heads": {"temporal": TemporalAttentionSpec(heads=4)},
        "first frame": {"frames": [Frame.FIRST]},
    },
    "codef": {"waves": {"video_field": VideoFieldSpec(kind=FieldKind.FOURIER)}},
    "prompt_to_prompt": {"no window": {"cross": StepWindow(end=0.0), "self_attention": StepWindow(end=0.0)}},
}
NEEDS: dict[str, dict[str, Any]] = {
    "text2live": {"target": "a small blue circle", "edit_layer": EditLayerSpec(num_scales=3)}
}
"""What a row lacks as it comes."""
RECIPES = {
    f"{name} {knobs}".strip(): cls(**values)
    for name, cls in catalogue().items()
    for knobs, values in ({"": NEEDS.get(name, {})} | KNOBS.get(name, {})).items()
}
FRAMES = 3


def recipes(wanted: Callable[[Recipe], object] = lambda _: True) -> pytest.MarkDecorator:
    found = {name: recipe for name, recipe in RECIPES.items() if wanted(recipe)}
    return pytest.mark.parametrize("recipe", list(found.values()), ids=list(found))


learning, every_method = recipes(lambda r: r.learns()), recipes()
inserting = recipes(lambda r: any(one.into == UNET for one in r.insertions()))
editing = recipes(lambda r: hasattr(r, "edit"))
drawing = recipes(
    lambda r: (
        "unet" in r.engages()
        and "caption" in r.reads()
        and not hasattr(r, "edit")
        and r.guidance(3.0).rows() == ("null", "text")
    )
)
training_the_unet = recipes(lambda r: "unet" in r.engages())
mixing = recipes(
    lambda r: (
        any(one.into == UNET for one in r.insertions())
        and not all(TIME in drop.dropped for drop in r.dropout() or [Drop(1, NOTHING)])
        and not all(isinstance(one.layer, BranchLowRankSpec) for one in r.insertions())
    )
)


def clip(model: ImageModel) -> tuple[torch.Tensor, torch.Tensor, Context]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, FRAMES, 4, 8, 8, generator=generator)
    return (
        x.to(model.unet.dtype),
        torch.tensor([7, 700]),
        model.encode_text(["a red circle", "two blue squares"]),
    )


def learner_of(recipe: Recipe, model: ImageModel, optimisation: Optimisation) -> Learner:
    """On what the recipe stands on, which has something to say."""
    below = beneath(recipe)
    learner = Learner(recipe, model, optimisation, seed=0, max_steps=3, beneath=below)
    give_voice(learner)
    if below:
        stir_beneath(learner.unet)
        stir_beside(learner)
    return learner


@torch.no_grad()
def give_voice(learner: Learner) -> None:
    """To nets beside the UNet that are trained before, and are not learnt here."""
    generator = torch.Generator().manual_seed(6)
    for net in learner.video_model.modules.values():
        for p in net.silent_outputs() if isinstance(net, Silent) else ():
            if not p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def stir_beneath(unet: VideoUNet) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, layer in unet.inserted.items():
        if name.endswith("+beneath"):
            for p in layer.silent_outputs():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))


@torch.no_grad()
def stir_beside(learner: Learner) -> None:
    """A ControlNet that lies beneath is heard."""
    generator = torch.Generator().manual_seed(6)
    for net in learner.video_model.modules.values():
        if isinstance(net, VideoControlNet):
            for p in net.silent_outputs():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))


def beneath_of(unet: VideoUNet) -> dict[str, torch.Tensor]:
    """What lies beneath."""
    return {name: value for name, value in unet.state_dict().items() if "+beneath." in name}


def stir(unet: VideoUNet) -> None:
    """Give every inserted layer something to say."""
    torch.manual_seed(3)
    for layer in unet.inserted.values():
        std = 0.02 if isinstance(layer, LowRank) else 0.2  # hundreds of louder ones make chaos of rounding
        for p in layer.parameters():
            torch.nn.init.normal_(p, std=std)


@inserting
@torch.no_grad()
def test_born_silent(recipe: Recipe, tiny: ImageModel) -> None:
    x, t, context = clip(tiny.to("cpu", torch.float64))
    if recipe.attention_keys() or recipe.image_norms() is NormScope.CLIP:
        # on a still clip all frames have the same keys, and the same statistics
        x = x[:, :1].expand_as(x).contiguous()
    per_frame = torch.stack([tiny.unet(x[:, i], t, context.tokens).sample for i in range(FRAMES)], 1)
    torch.testing.assert_close(assemble(recipe, tiny).unet.double()(x, t, Conditioning(context)), per_frame)


@inserting
def test_backbone_keys_survive(recipe: Recipe, tiny: ImageModel) -> None:
    before = list(tiny.unet.state_dict())
    assert list(assemble(recipe, tiny).unet.image_unet.state_dict()) == before


@inserting
@torch.no_grad()
def test_eject_restores_bitwise(recipe: Recipe, tiny: ImageModel) -> None:
    x, t, context = clip(tiny)
    before = tiny.unet(x[:, 0], t, context.tokens).sample
    unet = assemble(recipe, tiny).unet
    stir(unet)
    unet(x, t, Conditioning(context))
    unet.eject()
    assert torch.equal(tiny.unet(x[:, 0], t, context.tokens).sample, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.unet.modules())


@mixing
@torch.no_grad()
def test_frames_do_mix(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny).unet
    stir(unet)
    x, t, context = clip(tiny)
    y = x.clone()
    y[:, 2] += 1
    assert not torch.allclose(
        unet(x, t, Conditioning(context))[:, 1], unet(y, t, Conditioning(context))[:, 1]
    )


@inserting
@torch.no_grad()
def test_clips_do_not_mix(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny).unet.double()
    stir(unet)
    x, t, context = clip(tiny.to("cpu", torch.float64))
    torch.testing.assert_close(
        unet(x.flip(0), t.flip(0), Conditioning(context[[1, 0]])), unet(x, t, Conditioning(context)).flip(0)
    )


@inserting
@torch.no_grad()
def test_copy_and_pickle_are_independent(recipe: Recipe, tiny: ImageModel) -> None:
    unet = assemble(recipe, tiny).unet
    x, t, context = clip(tiny)
    silent = unet(x, t, Conditioning(context))
    twin = pickle.loads(pickle.dumps(copy.deepcopy(unet)))
    torch.testing.assert_close(twin(x, t, Conditioning(context)), silent)
    stir(twin)
    assert not torch.allclose(twin(x, t, Conditioning(context)), silent), (
        "the copy's hooks must run the copy's layers"
    )
    torch.testing.assert_close(unet(x, t, Conditioning(context)), silent)


@every_method
def test_config_round_trips(recipe: Recipe) -> None:
    cls = type(recipe)
    assert OmegaConf.to_object(OmegaConf.structured(recipe)) == recipe
    assert from_plain(cls, plain(asdict(recipe))) == recipe


def pixels(num_clips: int, num_frames: int, side: int) -> torch.Tensor:
    return torch.randint(0, 255, (num_clips, num_frames, 3, side, side), dtype=torch.uint8)


def batch_for(recipe: Recipe) -> Batch:
    """Two clips with what the recipe reads; one where it holds one clip."""
    reads = recipe.reads()
    num_clips = 1 if recipe.regime is Regime.FIT else 2
    num_frames = 1 if recipe.engages() == ("image_encoder",) else 5 if "fps" in reads else 2
    side = 64 if "reference" in reads or num_frames == 1 else 48 if num_clips == 1 else 32
    video = pixels(num_clips, num_frames, side)
    captions = ["a small red circle rests", "a large blue star moves up fast"]
    batch = Batch(keys=[("a", 0), ("b", 0)][:num_clips], captions=captions[:num_clips], video=video)
    fields = {
        "pose": torch.rand(num_clips, num_frames, 1, 17, 3),
        "source": video.flip(1),
        "reference": video[:, :1],
        "background": video[:, :1].flip(-1),
        "edges": torch.randint(0, 2, (num_clips, num_frames, side, side), dtype=torch.uint8) * 255,
    }
    batch.fields.update({name: value for name, value in fields.items() if name in reads})
    if "fps" in reads:
        batch.rates = torch.tensor([8.0, 24.0])
    return batch


@learning
def test_exactly_what_learns_changes(recipe: Recipe) -> None:
    from vgen.backbones.blank import Blank, blank

    model = blank(Blank.TOYBOX, seed=0)
    learner = learner_of(recipe, model, Optimisation(lr=1e-2))
    for pattern in recipe.learns():
        assert fnmatch.filter(dict(learner.parts.named_parameters()), pattern)
    everything = {
        f"{name}.{n}": p for name, module in model.components().items() for n, p in module.named_parameters()
    }
    everything |= {f"parts.{n}": p for n, p in learner.parts.named_parameters()}
    before = {n: p.detach().clone() for n, p in everything.items()}
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 3)
    batch = batch_for(recipe)
    beside = (net for name, net in learner.video_model.nets().items() if name != "unet")
    num_steps = 3 if any(net.inserted for net in beside) else 2
    for _ in range(num_steps):  # what lies behind n zeros gets its gradient in step n + 1
        optimiser.zero_grad()
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"].backward()
        optimiser.step()
    ids = {id(p) for p in learner.learning.values()}
    for name, parameter in everything.items():
        assert id(parameter) in ids or torch.equal(parameter, before[name]), (
            f"{name} changed but does not learn"
        )
    still = [n for n, p in learner.learning.items() if torch.equal(p, before[f"parts.{n}"])]
    assert not still, f"learn but did not change: {still[:5]}"


@training_the_unet
@torch.no_grad()
def test_what_was_learnt_comes_back_from_its_file(recipe: Recipe, tiny: ImageModel, tmp_path: Path) -> None:
    """The same tensors and the same picture, in another UNet of the same image model; the card rebuilds the
    recipe. It is drawn in double precision: products in other memory round otherwise, and a random net makes
    much of that."""
    trained, fresh = copy.deepcopy(tiny), copy.deepcopy(tiny)
    learner = learner_of(recipe, trained, Optimisation())
    torch.manual_seed(4)
    for p in learner.learning.values():
        p.add_(0.1 * torch.randn_like(p))
    save_adapter(tmp_path / "a.safetensors", learner.learning, Card.of(name_of(recipe), recipe, tiny, {}, {}))
    tensors, card = load_adapter(tmp_path / "a.safetensors")
    assert list(tensors) == sorted(learner.learning)
    assert all(torch.equal(value, learner.learning[name]) for name, value in tensors.items())
    again = from_plain(catalogue()[card.recipe], card.knobs)
    assert again == recipe
    video_model = assemble(again, fresh)
    unet = video_model.unet
    if beneath(recipe):
        unet.load_state_dict(beneath_of(learner.unet), strict=False)
    unet.double()
    learner.unet.double()
    x, t, context = clip(tiny.to("cpu", torch.float64))
    before = unet(x, t, Conditioning(context))
    put(video_model.components(), tensors, again.learns())
    ours, theirs = unet(x, t, Conditioning(context)), learner.unet(x, t, Conditioning(context))
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, before)


@drawing
@torch.no_grad()
def test_guidance_one_draws_with_the_conditional_model_alone(recipe: Recipe, tiny: ImageModel) -> None:
    video_model = assemble(recipe, tiny)
    unet = video_model.unet
    stir(unet)
    rows: list[int] = []
    unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

    def drawn(guidance: float, negative: str = "a blue star") -> torch.Tensor:
        sampling = Sampling(num_frames=2, num_steps=2, guidance=guidance, width_px=64, height_px=64)
        return generate(video_model, [Prompt("a red circle", seed=1, negative=negative)], sampling)

    alone = drawn(1.0)
    assert set(rows) == {1}
    assert torch.equal(alone, drawn(1.0, "nothing"))
    torch.testing.assert_close(alone, drawn(1.0 + 1e-6), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(alone, drawn(3.0), atol=1e-3)


@editing
def test_guidance_one_edits_with_the_conditional_model_alone(recipe: Any, tiny: ImageModel) -> None:
    # in double precision: a random net makes much of rounding, which is another in a batch of twice the rows
    video_model = assemble(recipe, tiny.to("cpu", torch.float64))
    video_model.unet.to(torch.float64).requires_grad_(False)  # the inserted layers too
    noise, latents = (start_noise(tiny, FRAMES, (8, 8), seed, torch.device("cpu")) for seed in (0, 1))
    wish = Wish(
        source="a large red circle on a black background",
        target="a large blue circle on a black background",
        instruction="make the circle blue",
    )
    side = 8 * tiny.vae_factor
    fields = heard(recipe, np.full((FRAMES, side, side, 3), 99, np.uint8), torch.device("cpu"))
    few: dict[str, Any] = {"null_text": NullText(inner_steps=1)} if hasattr(recipe, "null_text") else {}
    if hasattr(recipe, "mutual"):
        few["mutual"] = replace(
            recipe.mutual, window=StepWindow()
        )  # it acts from step 4 on, and here are two

    def edited(guidance: float) -> torch.Tensor:
        session = EditSession(
            video_model=video_model,
            wish=wish,
            noise=noise,
            sampling=Sampling(num_steps=2, guidance=guidance),
            latents=0.5 * latents,
            pixels=torch.zeros(1, FRAMES, 3, side, side),
            fields=fields,
        )
        return replace(recipe, **few).edit(session).latents

    alone = edited(1.0)
    torch.testing.assert_close(alone, edited(1.0 + 1e-6), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(alone, edited(3.0), atol=1e-3)


def test_a_pattern_that_hits_nothing_is_an_error(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match="matches none of"):
        select(torch.nn.ModuleDict({"unet": tiny.unet}), ("unet.inserted.*",))
