"""Laws of DreamArtist: words that diffusers reads alike, and that learn on the guided prediction."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from vgen.app.pieces import knobs_of, recognised
from vgen.app.show import _shapes
from vgen.backbones.conditioning import Conditioning, ForwardContext
from vgen.backbones.image_model import ImageModel
from vgen.backbones.pseudo_words import born, refuse_known, spoken
from vgen.backbones.sites import sites
from vgen.conditions.text import Text
from vgen.conditions.words import NEGATIVE, POSITIVE, Words
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.formats import state_file
from vgen.formats.adapter import Card
from vgen.formats.embeddings import A1111, DiffusersEmbedding, Embeddings
from vgen.formats.foreign import Learnt, Source
from vgen.layers.branch_lora import BranchLowRank, BranchLowRankSpec
from vgen.layers.lora import merge
from vgen.methods import assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.dreamartist import DreamArtist, DreamArtistPlusPlus
from vgen.training.learner import Learner, factors
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.preflight import preflight

PROMPT = "a large <subject> rests on a black background"


def learnt(model: ImageModel) -> Learnt:
    recipe, draw = DreamArtist(), torch.Generator().manual_seed(1)
    words = assemble(recipe, model).modules["text"]
    tensors = {f"text.{n}": torch.randn(p.shape, generator=draw) for n, p in words.named_parameters()}
    return Learnt(
        tensors=tensors,
        knobs=knobs_of(recipe),
        card=Card.of("dreamartist", recipe, model, {}, {}),
        model=model,
        assembled=lambda *_: None,  # type: ignore[arg-type, return-value]
    )


@torch.no_grad()
def test_diffusers_reads_the_same_words(tiny: ImageModel, tmp_path: Path) -> None:
    """The word's file through ``load_textual_inversion``: the same states of the text encoder."""
    held = learnt(tiny)
    DiffusersEmbedding().write(tmp_path / "words", held)
    ours = spoken(tiny, [PROMPT], {"<subject>": held.tensors["text.positive"]})
    plain = spoken(tiny, ["a large star"], {"<subject>": held.tensors["text.positive"]})
    torch.testing.assert_close(plain, tiny.encode_text(["a large star"]).tokens)
    pipe = StableDiffusionPipeline(
        tiny.vae,
        tiny.text_encoders[0],
        tiny.tokenizer,
        tiny.unet,
        DDIMScheduler(**tiny.scheduler_config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.load_textual_inversion(str(tmp_path / "words" / "subject.safetensors"))
    theirs, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.mark.parametrize("one", [DiffusersEmbedding(), A1111()])
def test_words_come_and_go(one: Embeddings, tiny: ImageModel, tmp_path: Path) -> None:
    """As plain data, with the names and numbers of vectors that they had."""
    held = learnt(tiny)
    one.write(tmp_path / "words", held)
    source = Source(str(tmp_path / "words"), tmp_path / "words")
    assert recognised(source)[1].name == one.name
    found = one.read(source, tiny.unet, 0)
    assert all(torch.equal(found.tensors[n], v) for n, v in held.tensors.items())
    assert found.knobs == {k: held.knobs[k] for k in ("words", "num_positive", "num_negative")}
    files = [p for p in (tmp_path / "words").iterdir() if p.suffix != ".json"]
    assert all(state_file.read(path) for path in files)  # weights_only


def test_both_words_learn_and_nothing_else(tiny: ImageModel) -> None:
    """Pre-flight passes, and two steps lower the loss on the same noise."""
    learner = Learner(DreamArtist(init="circle"), tiny, Optimisation(lr=3e-2), seed=0, max_steps=2)
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 1, 3, 64, 64), generator=draw, dtype=torch.uint8)
    batch = Batch(keys=[("a", 0)], captions=[PROMPT], video=video)
    assert preflight(learner, batch) == 2
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 2)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = learner.objective.loss(learner.video_model, batch, Draws(0, batch.keys))["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[0]


@torch.no_grad()
def test_the_negative_word_stands_in_the_negative_prompt(tiny: ImageModel) -> None:
    words = born(tiny, "circle", 2, 3)
    words.positive.add_(1)
    condition = Words()

    def null(**more: list[str]) -> torch.Tensor:
        return condition.encode(tiny, words, {"caption": [PROMPT], **more}).null["text"]

    said = spoken(tiny, [PROMPT.replace("<subject>", "<subject-neg>")], {"<subject-neg>": words.negative})
    torch.testing.assert_close(null(), said)
    torch.testing.assert_close(null(negative=[""]), said)
    torch.testing.assert_close(null(negative=["a star"]), tiny.encode_text(["a star"]).tokens)


@torch.no_grad()
def test_words_take_the_texts_place_in_a_stack(tiny: ImageModel) -> None:
    """In either order, under a motion module, whose schedule leads."""
    for recipes in ((AnimateDiff(), DreamArtist()), (DreamArtist(), AnimateDiff())):
        parts = [Part("", recipes[0]), Part("words", recipes[1])]
        video_model = assemble_stack(parts, tiny)
        assert isinstance(video_model.conditions["text"], Words)
        assert "text" in video_model.modules
        assert video_model.schedule == AnimateDiff().schedule
        video_model.unet.eject()
    assert isinstance(assemble(AnimateDiff(), tiny).conditions["text"], Text)


def test_a_placeholder_that_exists_already_is_refused(tiny: ImageModel) -> None:
    with pytest.raises(ValueError, match="word=circle is a word that the text encoder knows already"):
        assemble(DreamArtist(words=Words(word="circle")), tiny)
    refuse_known(tiny.tokenizer, ("<new>",))


def test_embeddings_of_another_width_are_refused(tiny: ImageModel, tmp_path: Path) -> None:
    held = learnt(tiny)
    held.tensors["text.negative"] = torch.zeros(6, 7)
    DiffusersEmbedding().write_one(_made(tmp_path), "<subject>", held.tensors["text.positive"])
    DiffusersEmbedding().write_one(tmp_path / "w", "<subject-neg>", held.tensors["text.negative"])
    with pytest.raises(ValueError, match="has 7 numbers a vector, and the image model's text encoder 32"):
        DiffusersEmbedding().read(Source("w", tmp_path / "w"), tiny.unet, 0)


def _made(folder: Path) -> Path:
    (folder / "w").mkdir()
    return folder / "w"


def test_one_embedding_alone_is_refused(tiny: ImageModel, tmp_path: Path) -> None:
    DiffusersEmbedding().write_one(_made(tmp_path), "<subject>", torch.zeros(3, 32))
    with pytest.raises(ValueError, match="must be a folder with two embeddings"):
        DiffusersEmbedding().read(Source("w", tmp_path / "w"), tiny.unet, 0)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="the negative one would learn nothing"):
        DreamArtist(training_guidance=1)
    with pytest.raises(ValueError, match="a word has 1 vector or more"):
        DreamArtist(num_positive=0)
    with pytest.raises(ValueError, match="one word without spaces"):
        Words(word="two words")


# -- DreamArtist++ -------------------------------------------------------------------------------------------
def plus_plus(model: ImageModel) -> Learner:
    """With layers that have something to say."""
    learner = Learner(DreamArtistPlusPlus(init="circle"), model, Optimisation(lr=1e-2), seed=0, max_steps=3)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in learner.learning.items():
            if "inserted" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=draw))
    return learner


def one_picture() -> Batch:
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 1, 3, 128, 128), generator=draw, dtype=torch.uint8)
    return Batch(keys=[("a", 0)], captions=[PROMPT], video=video)


@torch.no_grad()
def merged(model: ImageModel, learner: Learner, branch: str) -> UNet2DConditionModel:
    """The image UNet with the layers of one branch in its weights."""
    twin = copy.deepcopy(model.unet)
    for key, layer in learner.unet.inserted.items():
        if key.endswith(f"@{branch}"):
            assert isinstance(layer, BranchLowRank)
            merge(twin.get_submodule(key.partition("@")[0].replace("/", ".")).weight, [layer])
    return twin


def test_each_branch_is_run_by_its_own_layers(tiny: ImageModel) -> None:
    """n + 3 (p - n) by two UNets into which each branch's layers were merged, as HCP-Diffusion masks halves
    of a batch; the loss is on that."""
    bare = copy.deepcopy(tiny)
    learner, given = plus_plus(tiny), one_picture()
    ours = learner.objective.loss(learner.video_model, given, Draws(0, given.keys))["loss"]
    draws, schedule = Draws(0, given.keys), learner.video_model.schedule
    latents = bare.encode(given.pixels(torch.device("cpu"))).float()
    t, noise = draws.integers("timestep", 1000, latents.device), draws.normal("noise", latents)
    alpha, sigma = schedule.alpha_sigma(t, latents)
    noisy = (alpha * latents + sigma * noise)[:, 0]
    said = {
        "<subject>": learner.learning["text.positive"],
        "<subject-neg>": learner.learning["text.negative"],
    }
    with torch.no_grad():
        prompts = (PROMPT, PROMPT.replace("<subject>", "<subject-neg>"))
        texts = [spoken(bare, [prompt], said) for prompt in prompts]
        p, n = (
            merged(bare, learner, branch)(noisy, t, text).sample
            for branch, text in zip((POSITIVE, NEGATIVE), texts, strict=True)
        )
    theirs = torch.nn.functional.mse_loss(n + 3 * (p - n), noise[:, 0])
    assert float((ours.detach() - theirs).abs() / theirs) < 1e-4
    assert not torch.allclose(p, bare.unet(noisy, t, texts[0]).sample, atol=1e-3)


def test_all_of_it_learns_at_its_own_rate(tiny: ImageModel) -> None:
    learner = plus_plus(tiny)
    assert preflight(learner, one_picture()) == len(learner.learning)
    known = factors(learner.learning, learner.recipe.lr_factors())
    optimiser, _ = learner.optimisation.build(list(learner.learning.values()), 3, factors=known)
    rates = [group["lr"] for group in optimiser.param_groups]
    assert rates == pytest.approx([1e-2, 4e-4, 1.6e-4]) or sorted(rates) == pytest.approx(
        [1.6e-4, 4e-4, 1e-2]
    )
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(learner.learning)
    with pytest.raises(ValueError, match=r"optim\.kind=muon knows one rate"):
        Optimisation(kind=Optimiser.MUON).build(list(learner.learning.values()), 3, factors=known)


def test_a_row_hears_the_layers_of_its_branch_alone(tiny: ImageModel) -> None:
    """Of two rows the first hears what it hears alone, the second what the bare net says."""
    x, t = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([7, 7])
    text = tiny.encode_text(["a star", "a star"])
    with torch.no_grad():
        bare = assemble(DreamArtist(), copy.deepcopy(tiny)).unet(x, t, Conditioning(text))
        unet = plus_plus(tiny).unet
        neither = {POSITIVE: torch.zeros(2), NEGATIVE: torch.zeros(2)}
        torch.testing.assert_close(unet(x, t, Conditioning(text, weights=neither)), bare)
        one = {POSITIVE: torch.tensor([1.0, 0.0]), NEGATIVE: torch.zeros(2)}
        mixed = unet(x, t, Conditioning(text, weights=one))
        torch.testing.assert_close(mixed[1], bare[1], atol=1e-5, rtol=1e-4)
        alone = Conditioning(text[:1], weights={name: w[:1] for name, w in one.items()})
        torch.testing.assert_close(mixed[:1], unet(x[:1], t[:1], alone), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(mixed[0], bare[0], atol=1e-3)


def test_ranks_are_shares_of_widths(tiny: ImageModel) -> None:
    """As HCP-Diffusion rounds them: 6 of 320 channels, 24 of 1280."""
    site, context = next(iter(sites(tiny.unet))), ForwardContext()
    layers = [BranchLowRankSpec().build(site, torch.nn.Linear(8, width), context) for width in (320, 1280, 8)]
    assert [layer.up.weight.shape[1] for layer in layers] == [6, 24, 1]
    assert layers[0].scale == 1 / 6
    with pytest.raises(ValueError, match="rank_share is a share of a projection's width"):
        BranchLowRankSpec(rank_share=0)
    with pytest.raises(ValueError, match="lora alpha must be above 0"):
        BranchLowRankSpec(alpha=0)


def test_at_the_shapes_of_stable_diffusion_as_many_numbers_learn() -> None:
    """By hand, from HCP-Diffusion's ranks: of C channels r = .01875 C, of the gated projection 8 r; 5 blocks
    each of 320 and 640 channels, 6 of 1280."""

    def block(width: int) -> int:
        rank = round(0.01875 * width)
        keys_and_values = 2 * rank * (2 * width) + 2 * rank * (768 + width)
        return keys_and_values + 8 * rank * (9 * width) + rank * (5 * width)

    with torch.device("meta"):
        unet = assemble(DreamArtistPlusPlus(), _shapes("sd15")).unet
    count = sum(p.numel() for p in unet.inserted.parameters())
    assert count == 2 * (5 * block(320) + 5 * block(640) + 6 * block(1280)) == 39_283_968
