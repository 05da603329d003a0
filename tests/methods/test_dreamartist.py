"""Laws of DreamArtist: words that diffusers reads alike, and that learn on the guided prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from vgen.app.pieces import knobs_of, recognised
from vgen.backbones.image_model import ImageModel
from vgen.backbones.pseudo_words import born, refuse_known, spoken
from vgen.conditions.text import Text
from vgen.conditions.words import Words
from vgen.data.batch import Batch
from vgen.diffusion.draws import Draws
from vgen.formats import state_file
from vgen.formats.adapter import Card
from vgen.formats.embeddings import A1111, DiffusersEmbedding, Embeddings
from vgen.formats.foreign import Learnt, Source
from vgen.methods import assemble
from vgen.methods._assembly import Part, assemble_stack
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.dreamartist import DreamArtist
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation
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
