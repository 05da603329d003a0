"""Laws of the spine, on tiny recipes that were chosen to break it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tenants
import torch
from diffusers.models import ControlNetModel
from diffusers.models.resnet import ResnetBlock2D
from tenants import (
    LearningControl,
    Named,
    PoseModule,
    Tenant,
    TextEncoderToo,
    TwoForwards,
    WidenedGuest,
    WordsAlone,
)
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning, ForwardContext, Prepared
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, Stage, sites
from vgen.backbones.video_unet import Sidecar
from vgen.conditions.text import Text
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.diffusion.draws import Draws
from vgen.diffusion.guidance import NOTHING, TIME, Dual, drawn
from vgen.formats.adapter import Card, load_adapter, put, save_adapter
from vgen.methods import VideoModel, assemble
from vgen.training.corpus import Corpus, split
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
from vgen.training.preflight import preflight
from vgen.training.preparing import Preparer, needs_of

FRAMES, SIDE = 3, 32
T = torch.tensor([7, 700])


@pytest.fixture
def toy() -> ImageModel:
    return blank(Blank.TOYBOX, seed=0).freeze()


def batch_of(num_clips: int = 2, frames: int = FRAMES, side: int = SIDE, **more: Tensor) -> Batch:
    generator = torch.Generator().manual_seed(2)

    def pictures() -> Tensor:
        shape = (num_clips, frames, 3, side, side)
        return torch.randint(0, 255, shape, generator=generator, dtype=torch.uint8)

    fields = {
        "source": pictures(),
        "pose": torch.rand(num_clips, frames, 1, 17, 3, generator=generator),
        "loud": torch.linspace(1, 2, num_clips),
    }
    captions = ["a large red circle rests", "a small blue star rests"] * num_clips
    keys = [(f"s{i}", 0) for i in range(num_clips)]
    return Batch(keys=keys, captions=captions[:num_clips], video=pictures(), fields=fields | more)


def noisy(num_clips: int = 2, frames: int = FRAMES) -> Tensor:
    return torch.randn(num_clips, frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def encoded_of(video_model: VideoModel, **more: Tensor) -> Any:
    return video_model.encode(video_model.prepare(batch_of(**more).fields_by_name()))


def learner_of(recipe: Tenant, model: ImageModel) -> Learner:
    return Learner(recipe, model, Optimisation(lr=1e-2), seed=0, max_steps=3)


@torch.no_grad()
def stir(module: torch.nn.Module, std: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(3)
    for p in module.parameters():
        p.add_(std * torch.randn(p.shape, generator=generator).to(p))


def gradients(learner: Learner, batch: Batch) -> dict[str, Tensor]:
    learner.zero_grad(set_to_none=True)
    learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"].backward()
    return {name: p.grad.clone() for name, p in learner.learning.items() if p.grad is not None}


def farthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference, relative to each tensor's own size."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp(min=1e-12)) for n in a)


def file_and_back(learner: Learner, fresh: VideoModel, path: Path) -> dict[str, Tensor]:
    recipe = learner.recipe
    card = Card.of(tenants.NAME, recipe, learner.model, {}, {})
    save_adapter(path, learner.learning, card)
    tensors, _ = load_adapter(path)
    put(fresh.components(), tensors, recipe.learns())
    return tensors


# -- a widened guest -----------------------------------------------------------------------------------------
@torch.no_grad()
def test_a_widened_first_convolution_is_the_sum_of_two(toy: ImageModel) -> None:
    video_model = assemble(WidenedGuest(), toy)
    layer = video_model.unet.inserted["conv_in"]
    stir(layer)
    x, c = noisy(2, 1), noisy(2, 1).flip(0)
    own = toy.unet.conv_in
    wide = torch.nn.Conv2d(8, own.out_channels, own.kernel_size, padding=own.padding)
    wide.weight.copy_(torch.cat([own.weight, layer.conv.weight], 1))
    wide.bias.copy_(own.bias)
    given = Conditioning(toy.encode_text(["", ""]), concat={"image": c})
    heard: list[Tensor] = []
    toy.unet.conv_in.register_forward_hook(lambda *args: heard.append(args[2]))
    video_model.unet(x, T, given)
    torch.testing.assert_close(heard[0], wide(torch.cat([x, c], 2)[:, 0]))


@torch.no_grad()
def test_a_widened_guest_is_born_silent_and_leaves_without_trace(toy: ImageModel) -> None:
    x, text = noisy(), toy.encode_text(["a red circle", "a blue star"])
    keys = list(toy.unet.state_dict())
    alone = toy.unet(x[:, 0], T, text.tokens).sample
    bare = assemble(Tenant(), toy).unet
    before = bare(x, T, Conditioning(text))
    bare.eject()
    video_model = assemble(WidenedGuest(), toy)
    unet = video_model.unet
    encoded = encoded_of(video_model)
    assert encoded["image"].frames["latents"].abs().max() > 0
    silent = unet(x, T, Conditioning(text))
    given = Conditioning(text, concat={"image": encoded["image"].frames["latents"]})
    assert torch.equal(unet(x, T, given), silent)
    assert torch.equal(silent, before)
    assert list(unet.image_unet.state_dict()) == keys
    assert toy.unet.config["in_channels"] == toy.unet.conv_in.in_channels == 4
    stir(unet.inserted)
    assert not torch.allclose(unet(x, T, given), silent)
    unet.eject()
    assert torch.equal(toy.unet(x[:, 0], T, text.tokens).sample, alone)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in toy.unet.modules())


def test_three_shares_of_dropout_are_hit() -> None:
    num, draws = 2000, Draws(5, [(f"s{i}", 0) for i in range(2000)])
    dropped = drawn(WidenedGuest().dropout(), draws.uniform("text_drop", torch.device("cpu")).tolist())
    spread = 3 * (0.05 * 0.95 * num) ** 0.5
    for names in ({"image"}, {"image", "text"}, {"text"}):
        assert abs(dropped.count(frozenset(names)) - 0.05 * num) < spread
    assert dropped.count(NOTHING) == num - sum(d != NOTHING for d in dropped) > 0.8 * num


@torch.no_grad()
def test_dual_guidance_at_one_is_the_full_prediction(toy: ImageModel) -> None:
    video_model = assemble(WidenedGuest(), toy)
    stir(video_model.unet.inserted)
    encoded, x = encoded_of(video_model), noisy()
    full = video_model.predict(encoded, [NOTHING] * 2, x, T)
    guided = video_model.predict_guided(encoded, Dual(text=1, image=1), x, T[:1])
    torch.testing.assert_close(
        guided, video_model.predict(encoded, [NOTHING] * 2, x, T[:1].expand(2)), atol=1e-4, rtol=1e-4
    )
    other = video_model.predict_guided(encoded, Dual(text=1, image=3), x, T[:1])
    assert not torch.allclose(other, guided, atol=1e-3)
    assert full.shape == x.shape


def test_a_widened_guest_trains_and_comes_back_from_its_file(toy: ImageModel, tmp_path: Path) -> None:
    fresh = assemble(WidenedGuest(), copy.deepcopy(toy))
    learner = learner_of(WidenedGuest(), toy)
    assert preflight(learner, batch_of()) == 1
    stir(learner.unet.inserted)
    tensors = file_and_back(learner, fresh, tmp_path / "a.safetensors")
    assert list(tensors) == ["unet.inserted.conv_in.conv.weight"]
    with torch.no_grad():
        outs = [m.predict(encoded_of(m), [NOTHING] * 2, noisy(), T) for m in (fresh, learner.video_model)]
    assert torch.equal(*outs)


# -- a module beside the UNet --------------------------------------------------------------------------------
def test_gradients_reach_the_module_alone(toy: ImageModel) -> None:
    learner = learner_of(PoseModule(), toy)
    assert preflight(learner, batch_of()) == len(learner.learning) == 2 + 2 * 3
    assert all(name.startswith("pose.") for name in learner.learning)


@torch.no_grad()
def test_dropped_equals_never_there(toy: ImageModel) -> None:
    video_model = assemble(PoseModule(), toy)
    encoded, x = encoded_of(video_model), noisy()
    never = video_model.predict({"text": encoded["text"]}, [NOTHING] * 2, x, T)
    pose = frozenset({"pose"})
    assert torch.equal(video_model.predict(encoded, [pose] * 2, x, T), never)
    mixed = video_model.predict(encoded, [pose, NOTHING], x, T)
    torch.testing.assert_close(mixed[0], never[0])
    assert not torch.allclose(mixed[1], never[1])
    stills = video_model.predict(encoded, [frozenset({TIME, "pose"})] * 2, x, T)
    torch.testing.assert_close(stills, never)  # this UNet sees no time
    torch.testing.assert_close(
        video_model.predict(encoded, [frozenset({TIME, "pose"}), NOTHING], x, T)[0], never[0]
    )


def test_a_module_learns_through_checkpoints(toy: ImageModel) -> None:
    learner = learner_of(PoseModule(), toy)
    plain = gradients(learner, batch_of())
    learner.video_model.enable_gradient_checkpointing()
    assert farthest(gradients(learner, batch_of()), plain) < 1e-5


def test_the_adapter_holds_the_module_alone_and_puts_it_back(toy: ImageModel, tmp_path: Path) -> None:
    torch.manual_seed(1)
    fresh = assemble(PoseModule(), copy.deepcopy(toy))
    learner = learner_of(PoseModule(), toy)
    stir(learner.video_model.modules)
    before = fresh.predict(encoded_of(fresh), [NOTHING] * 2, noisy(), T)
    tensors = file_and_back(learner, fresh, tmp_path / "a.safetensors")
    assert all(name.startswith("pose.") for name in tensors)
    with torch.no_grad():
        outs = [m.predict(encoded_of(m), [NOTHING] * 2, noisy(), T) for m in (fresh, learner.video_model)]
    assert torch.equal(*outs)
    assert not torch.allclose(outs[0], before)


def test_a_clip_that_lacks_an_optional_field_drops_its_condition(toy: ImageModel) -> None:
    """Its rows of the field are filled up with something, and the module must not be told that."""
    learner = learner_of(PoseModule(optional=True), toy)
    batch = batch_of()
    batch.present["pose"] = torch.tensor([True, False])

    def loss(pose: Tensor) -> Tensor:
        batch.fields["pose"] = pose
        return learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]

    pose = batch.fields["pose"]
    other = torch.stack([pose[0], torch.full_like(pose[1], 0.3)])
    assert torch.equal(loss(pose), loss(other))
    assert not torch.equal(loss(pose), loss(pose.flip(0)))


# -- a ControlNet that learns --------------------------------------------------------------------------------
def control(model: ImageModel, loud: bool = True) -> tuple[VideoModel, Any]:
    """In double precision, perhaps with something to say everywhere."""
    model.to("cpu", torch.float64)
    torch.manual_seed(0)
    video_model = assemble(LearningControl(), model).to("cpu", torch.float64)
    if loud:
        stir(video_model.unet.inserted)
        stir(video_model.modules)
    pictures = {"source": batch_of().fields["source"].double() / 255}
    with torch.no_grad():
        return video_model, encoded_of(video_model, **pictures)


@torch.no_grad()
def test_a_new_control_net_is_born_silent(toy: ImageModel) -> None:
    video_model, encoded = control(toy, loud=False)
    control_net = video_model.modules["control"]
    assert isinstance(control_net, Sidecar)
    assert control_net.inserted
    x = noisy().double()
    heard = video_model.predict(encoded, [NOTHING] * 2, x, T)
    assert torch.equal(heard, video_model.predict({"text": encoded["text"]}, [NOTHING] * 2, x, T))


SETS = [NOTHING, frozenset({"control"}), frozenset({"text"}), frozenset({TIME})]


@torch.no_grad()
def test_rows_that_drop_different_things_equal_rows_asked_alone(toy: ImageModel) -> None:
    video_model, encoded = control(toy)
    x, t = noisy(4).double(), torch.tensor([7, 70, 300, 700])
    rows = {name: e.rows(torch.tensor([0, 1, 0, 1])) for name, e in encoded.items()}
    together = video_model.predict(rows, SETS, x, t)
    for i, dropped in enumerate(SETS):
        mine = {name: e.rows(torch.tensor([i])) for name, e in rows.items()}
        alone = video_model.predict(mine, [dropped], x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, msg=f"{sorted(dropped)}")
    for i in (1, 2, 3):
        mine = {name: e.rows(torch.tensor([i])) for name, e in rows.items()}
        whole = video_model.predict(mine, [NOTHING], x[i : i + 1], t[i : i + 1])
        assert not torch.allclose(whole, together[i : i + 1], atol=1e-4), SETS[i]


@torch.no_grad()
def test_rows_that_drop_time_equal_their_frames_as_clips(toy: ImageModel) -> None:
    video_model, encoded = control(toy)
    x = noisy().double()
    out = video_model.predict(encoded, [frozenset({TIME})] * 2, x, T)
    for frame in range(FRAMES):
        one = {name: e.at(range(frame, frame + 1)) for name, e in encoded.items()}
        still = video_model.predict(one, [NOTHING] * 2, x[:, frame : frame + 1], T)
        torch.testing.assert_close(out[:, frame : frame + 1], still)


def test_a_control_net_that_learns_passes_pre_flight(toy: ImageModel) -> None:
    pictures = {"source": batch_of().fields["source"].float() / 255}
    learner = learner_of(LearningControl(), toy)
    learner.video_model.enable_gradient_checkpointing()
    assert preflight(learner, batch_of(**pictures)) == len(learner.learning)


def test_a_control_net_that_does_not_learn_is_frozen(toy: ImageModel) -> None:
    pictures = {"source": batch_of().fields["source"].float() / 255}
    learner = learner_of(LearningControl(learns_control=False), toy)
    assert preflight(learner, batch_of(**pictures)) == len(learner.learning)
    net = learner.video_model.modules["control"]
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(m.training for m in net.modules())


# -- two forwards before one backward ------------------------------------------------------------------------
def two_forwards(model: ImageModel, loud: Tensor | None) -> float:
    """How far checkpointed gradients are from plain ones."""
    more = {} if loud is None else {"still_loud": loud}
    batch, learner = batch_of(**more), learner_of(TwoForwards(), model)
    stir(learner.unet.inserted, 0.05)
    plain = gradients(learner, batch)
    learner.video_model.enable_gradient_checkpointing()
    return farthest(gradients(learner, batch), plain)


OTHER = torch.tensor([5.0, -3.0])


@pytest.mark.parametrize("loud", [None, OTHER], ids=["other frames", "other conditioning"])
def test_checkpoints_of_two_forwards_keep_their_contexts(toy: ImageModel, loud: Tensor | None) -> None:
    off = two_forwards(toy, loud)
    assert off < 1e-5


@pytest.mark.parametrize("loud", [None, OTHER], ids=["other frames", "other conditioning"])
def test_without_its_context_a_checkpoint_is_wrong(
    toy: ImageModel, loud: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the law above can fail."""

    def forgetful(self: ForwardContext, function: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False)

    monkeypatch.setattr(ForwardContext, "checkpoint", forgetful)
    try:
        off = two_forwards(toy, loud)
    except RuntimeError:  # shapes of another number of frames
        return
    assert off > 0.1


# -- a learnt owner of the cross-attention -------------------------------------------------------------------
def test_both_vectors_learn_on_the_guided_prediction(toy: ImageModel) -> None:
    learner = learner_of(WordsAlone(), toy)
    assert preflight(learner, batch_of()) == 2
    assert set(gradients(learner, batch_of())) == {"text.positive", "text.negative"}


def test_pre_flight_says_that_the_negative_learns_nothing_at_scale_one(toy: ImageModel) -> None:
    learner = learner_of(WordsAlone(scale=1.0), toy)
    with pytest.raises(ValueError, match=r"1 of 2 tensors learn and get no gradient \(text\.negative\)"):
        preflight(learner, batch_of())


# -- a text encoder that learns ------------------------------------------------------------------------------
def test_a_text_encoder_learns_beside_the_unet(tiny: ImageModel) -> None:
    tiny.empty_text()  # remembered while it was frozen
    learner = learner_of(TextEncoderToo(share=1.0), tiny)
    batch = batch_of(frames=1, side=128)  # of one token in the middle attention has no gradient
    assert preflight(learner, batch) == len(learner.learning)
    found = gradients(learner, batch)
    assert any(name.startswith("text_encoder.") for name in found), "the empty prompt is the encoder's, too"
    with torch.no_grad():
        for name, p in learner.learning.items():
            if name.startswith("text_encoder."):
                p.add_(0.1 * torch.randn_like(p))
    fields = learner.video_model.prepare(batch.fields_by_name())
    assert "text" not in fields
    encoded = learner.video_model.encode(fields)["text"]
    assert torch.equal(encoded.null["text"], tiny.encode_text([""]).tokens)


@torch.no_grad()
def test_the_empty_prompt_follows_its_encoder(tiny: ImageModel) -> None:
    """Whoever changed it, and however: an optimiser, a file, averaged weights."""
    before = tiny.empty_text().tokens
    assert tiny.empty_text().tokens is before
    stir(tiny.text_encoders[0])
    after = tiny.empty_text().tokens
    assert not torch.allclose(after, before)
    assert torch.equal(after, tiny.encode_text([""]).tokens)


# -- several layers at a site --------------------------------------------------------------------------------
@torch.no_grad()
def test_two_layers_at_a_site_run_in_order_and_leave_one_by_one(toy: ImageModel) -> None:
    x, text = noisy(), toy.encode_text(["a red circle", "a blue star"])
    given = Conditioning(text)
    unet = assemble(Named(), toy).unet
    silent = unet(x, T, given)
    paths = [path for path in unet.inserted if "@" not in path]
    assert set(unet.inserted) == {*paths, *(f"{path}@second" for path in paths)}
    for path in paths:
        stir(unet.inserted[path])
    first = unet(x, T, given)
    for path in paths:
        stir(unet.inserted[f"{path}@second"], 0.3)
    both = unet(x, T, given)
    assert not torch.allclose(both, first)
    for path in paths:
        unet.eject(path.replace("/", "."), "second")
    assert torch.equal(unet(x, T, given), first)
    for path in paths:
        unet.eject(path.replace("/", "."))
    assert torch.equal(unet(x, T, given), silent)
    assert not any(m._forward_hooks for m in toy.unet.modules())


@pytest.mark.parametrize(
    ("names", "said"), [(["a", "a"], "a layer called 'a'"), (["", ""], "a layer without a name")]
)
def test_two_layers_of_one_name_are_refused(toy: ImageModel, names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=f"already holds {said}, .*; eject it first, or give the new one a"):
        assemble(Named(names=names), toy)


def test_a_layer_that_is_not_there_is_not_ejected(toy: ImageModel) -> None:
    unet = assemble(Named(), toy).unet
    with pytest.raises(ValueError, match="holds no layer called 'third'"):
        unet.eject("mid_block", "third")


# -- sites of any net ----------------------------------------------------------------------------------------
def counted(net: torch.nn.Module) -> Counter:
    return Counter(site.kind for site in sites(net))


def leaves(net: torch.nn.Module, *kinds: type) -> int:
    return sum(type(m) in kinds for m in net.modules())


def test_sites_of_stable_diffusion() -> None:
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
    found = counted(unet)
    for kind in (Kind.ATTN1, Kind.ATTN2, Kind.FF, Kind.BLOCK, Kind.ATTENTION):
        assert found[kind] == 16, kind
    assert found[Kind.RESNET] == 8 + 2 + 12
    assert found[Kind.PAIR] == 8 + 1 + 12
    assert found[Kind.CONV_IN] == found[Kind.CONV_OUT] == found[Kind.TIME_EMBEDDING] == 1
    ends = [(s.stage, s.level) for s in sites(unet) if s.kind is Kind.RESOLUTION]
    down, up = [(Stage.DOWN, i) for i in range(4)], [(Stage.UP, i) for i in (3, 2, 1, 0)]
    assert ends == [*down, (Stage.MID, 3), *up]
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    assert found[Kind.LINEAR] == sum(leaves(b, torch.nn.Linear) for b in blocks)
    assert found[Kind.CONV] == sum(leaves(b, torch.nn.Conv2d) for b in blocks)


def test_sites_of_a_control_net_are_those_of_half_a_unet() -> None:
    with torch.device("meta"):
        unet = blank_unet(Blank.SD15)
        net = ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    half = [s.path for s in sites(unet) if s.stage is not Stage.UP and s.kind is not Kind.CONV_OUT]
    assert [s.path for s in sites(net) if s.kind is not Kind.HINT] == half
    found = counted(net)
    assert found[Kind.HINT] == 8, "eight convolutions see the picture"
    assert found[Kind.BLOCK] == found[Kind.ATTN1] == 7
    assert found[Kind.RESNET] == 8 + 2


@torch.no_grad()
def test_the_output_of_a_site_is_as_wide_as_the_site_says(toy: ImageModel) -> None:
    x, text = noisy(1, 1)[:, 0], toy.encode_text(["a red circle"])
    net = ControlNetModel.from_unet(toy.unet, conditioning_embedding_out_channels=(8, 8, 8))
    runs: list[tuple[torch.nn.Module, Callable[[], Any]]] = [
        (toy.unet, lambda: toy.unet(x, 7, text.tokens)),
        (net, lambda: net(x, 7, text.tokens, torch.zeros(1, 3, SIDE, SIDE))),
        (toy.vae, lambda: toy.vae.decode(x)),
        (toy.text_encoders[0], lambda: toy.encode_text(["a red circle"])),
    ]
    for guest, run in runs:
        found = list(sites(guest))
        seen: dict[str, int] = {}
        for path in {site.path for site in found}:
            guest.get_submodule(path).register_forward_hook(partial(remember_width, seen, path))
        run()
        assert not [site for site in found if seen.get(site.path, site.channels) != site.channels]
        assert len(seen) > len({site.path for site in found}) / 2


def remember_width(seen: dict[str, int], path: str, _module: Any, _args: Any, out: Any) -> None:
    x = out[0] if isinstance(out, tuple) else getattr(out, "sample", out)
    seen[path] = x.shape[1 if x.ndim == 4 else -1]


def test_any_net_has_its_convolutions_and_projections_as_sites(toy: ImageModel) -> None:
    layer = assemble(Named(), toy).unet.inserted
    encoder = toy.text_encoders[0]
    assert counted(encoder)[Kind.LINEAR] == leaves(encoder, torch.nn.Linear) > 0
    assert counted(layer)[Kind.LINEAR] == leaves(layer, torch.nn.Linear) == 4 * len(layer)
    found = counted(toy.vae)
    blocks = [toy.vae.decoder.mid_block, *toy.vae.decoder.up_blocks]
    assert found[Kind.RESNET] == sum(leaves(b, ResnetBlock2D) for b in blocks)
    assert found[Kind.CONV] == sum(leaves(b, torch.nn.Conv2d) for b in blocks)
    assert all(site.path.startswith("decoder.") for site in sites(toy.vae))


@pytest.mark.slow
# -- one graph -----------------------------------------------------------------------------------------------
@torch.no_grad()
def test_one_graph_serves_all_conditionings_of_equal_names(toy: ImageModel) -> None:
    video_model = assemble(WidenedGuest(), toy)
    stir(video_model.unet.inserted)
    unet, count = video_model.unet, CompileCounter()
    run = torch.compile(unet, fullgraph=True, backend=count)
    for i in range(3):
        text = toy.encode_text(["a red circle", f"a blue star {'rests ' * i}"])
        x, concat = noisy() + i, {"image": noisy() * i}
        given = Conditioning(text, concat=concat, vector={"loud": torch.tensor([1.0 * i, 2])})
        torch.testing.assert_close(run(x, T + i, given), unet(x, T + i, given), atol=1e-4, rtol=1e-4)
    assert count.frame_count == 1
    torch._dynamo.reset()


# -- bad input speaks ----------------------------------------------------------------------------------------
def test_a_training_without_a_needed_field_speaks(toy: ImageModel) -> None:
    learner, batch = learner_of(PoseModule(), toy), batch_of()
    del batch.fields["pose"]
    with pytest.raises(ValueError, match=r"the condition 'pose' reads pose, and the clips have only caption"):
        learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))
    spared = learner_of(PoseModule(optional=True), blank(Blank.TOYBOX).freeze())
    loss = spared.objective.loss(spared.video_model, batch, Draws(0, batch.keys))["loss"]
    assert torch.isfinite(loss)


def test_shards_without_a_needed_field_are_refused(toy_shards: Path) -> None:
    corpus = Corpus(path=str(toy_shards), window=Window(num_frames=2), val_clips=4)
    with pytest.raises(ValueError, match="pose"):
        split(corpus, 0, 32, needs_of(PoseModule()))


def test_two_owners_of_the_cross_attention_are_refused(toy: ImageModel) -> None:
    video_model = assemble(tenants.TwoOwners(), toy)
    with pytest.raises(ValueError, match="two conditions own the cross-attention; one owns it, the others"):
        video_model.predict(encoded_of(video_model), [NOTHING] * 2, noisy(), T)


def test_a_layer_for_a_net_that_is_not_there_is_refused(toy: ImageModel) -> None:
    with pytest.raises(ValueError, match="speaks of the net 'control', but it has unet"):
        assemble(tenants.NowhereNet(), toy)


def test_layers_that_nobody_trains_are_refused(toy: ImageModel) -> None:
    with pytest.raises(ValueError, match=r"inserts layers and learns none of them .*unet\.inserted\.\*"):
        learner_of(tenants.InsertsForNothing(), toy)


def test_a_module_of_the_name_of_a_part_is_refused(toy: ImageModel) -> None:
    with pytest.raises(ValueError, match="a condition called vae brings a module, but a part of the image"):
        assemble(tenants.TakenName(), toy)


def test_dropping_what_is_not_there_is_refused(toy: ImageModel) -> None:
    with pytest.raises(ValueError, match="dropout names imag, which is no condition of this method; it has"):
        assemble(tenants.DropsNothing(), toy)


def test_an_adapter_whose_module_is_missing_is_refused(toy: ImageModel) -> None:
    learner = learner_of(PoseModule(), toy)
    tensors = dict(learner.learning)
    bare = assemble(Tenant(), blank(Blank.TOYBOX).freeze())
    with pytest.raises(ValueError, match=r"adapter does not fit .*8 unknown tensors \(first: \['pose\.stem"):
        put(bare.components(), tensors, ())
    lacking = {name: value for name, value in tensors.items() if "stem" in name}
    with pytest.raises(ValueError, match=r"adapter lacks 6 tensors that its method trains"):
        put(learner.video_model.components(), lacking, PoseModule().learns())


# -- what runs around them -----------------------------------------------------------------------------------
def test_what_is_frozen_is_prepared_without_gradient(toy: ImageModel, monkeypatch: Any) -> None:
    seen: list[bool] = []

    def prepare(self: Text, model: ImageModel, fields: Any) -> Prepared:
        seen.append(torch.is_grad_enabled())
        return Prepared()

    monkeypatch.setattr(Text, "prepare", prepare)
    encoded_of(assemble(Tenant(), toy))
    assert seen == [False, False]


def test_a_cache_keeps_no_text_of_an_encoder_that_learns(tiny: ImageModel) -> None:
    frozen = Preparer(assemble(Tenant(), copy.deepcopy(tiny)))
    learning = Preparer(learner_of(TextEncoderToo(), tiny).video_model)
    fields = {
        k: v for k, v in batch_of(frames=1, side=64).fields_by_name().items() if k in ("video", "caption")
    }
    assert set(frozen.prepare(fields, torch.device("cpu")).fields()) == {"latents", "text"}
    assert set(learning.prepare(fields, torch.device("cpu")).fields()) == {"latents"}
    assert frozen.fingerprint() != learning.fingerprint()
