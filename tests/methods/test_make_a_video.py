"""Make-A-Video: layers over frames that leave stills alone, frame rates, and stills among clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from vgen.app.loading import open_checkpoint
from vgen.backbones.blank import Blank, blank, blank_unet
from vgen.backbones.conditioning import Conditioning
from vgen.backbones.image_model import ImageModel
from vgen.backbones.sites import Kind, after, sites
from vgen.conditions.context_frames import GIVEN, GivenFrames, WhichFrames
from vgen.conditions.fps import FrameRates
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.data.stills import ClipAndStillBatches, stills_before
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import load_adapter
from vgen.layers.fps_embedding import FpsEmbeddingSpec
from vgen.layers.pseudo3d import CONVOLUTIONS, PseudoAttentionSpec
from vgen.methods import Recipe, VideoModel, assemble
from vgen.methods._assembly import add
from vgen.methods._objectives import Denoising
from vgen.methods._recipe import Insertion
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.make_a_video import MakeAVideo
from vgen.training.corpus import Corpus, split
from vgen.training.job import Job
from vgen.training.optimisation import Optimisation
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import TrainerSettings

EXTRAPOLATOR = MakeAVideo(context=GivenFrames(which=WhichFrames.FIRST, most=1), rates=FrameRates(max_skip=1))


def clip(model: ImageModel, frames: int) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    x = torch.randn(2, frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([7, 700]), Conditioning(model.encode_text(["a red circle", "two blue squares"]))


def loud(recipe: MakeAVideo, model: ImageModel) -> VideoModel:
    torch.manual_seed(0)
    video_model = assemble(recipe, model)
    with torch.no_grad():
        for p in video_model.unet.inserted.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return video_model


# -- its layers ----------------------------------------------------------------------------------------------
@torch.no_grad()
def test_new_layers_are_the_identity_to_the_bit_and_a_still_passes_loud_ones(tiny: ImageModel) -> None:
    (x, t, said), (still, *_) = clip(tiny, 3), clip(tiny, 1)
    bare = assemble(Recipe(), tiny).unet
    of_clip, of_still = bare(x, t, said), bare(still, t, said)
    bare.eject()
    born = assemble(MakeAVideo(), tiny).unet
    assert torch.equal(born(x, t, said), of_clip)
    assert torch.equal(born(still, t, said), of_still)
    born.eject()
    heard = loud(MakeAVideo(), tiny).unet
    assert torch.equal(heard(still, t, said), of_still)
    assert not torch.allclose(heard(x, t, said), of_clip, atol=1e-3)


def test_its_size_follows_from_the_image_models() -> None:
    """Three taps of every convolution of more than a pixel, and four projections of every self-attention."""
    with torch.device("meta"):
        image = blank_unet(Blank.SD15)
        large = ImageModel(
            unet=image,
            vae=None,  # type: ignore[arg-type]
            text_encoders=[],
            tokenizer=None,  # type: ignore[arg-type]
            scheduler_config={"beta_start": 1},
        )
        unet = assemble(MakeAVideo(), large).unet
    here = list(sites(image))
    kernels = {s.path: image.get_submodule(s.path) for s in here if CONVOLUTIONS(s)}
    spatial = [n for n, m in image.named_modules() if type(m) is torch.nn.Conv2d and m.kernel_size != (1, 1)]
    assert sorted(kernels) == sorted(spatial)
    convolutions = sum(3 * m.out_channels**2 + m.out_channels for m in kernels.values())
    attentions = sum(4 * s.channels**2 + 3 * s.channels for s in here if s.kind is Kind.ATTN1)
    told = 256 * 1280 + 1280 + 1280**2 + 1280
    assert sum(p.numel() for p in unet.inserted.parameters()) == convolutions + attentions + told


# -- frame rates ---------------------------------------------------------------------------------------------
@torch.no_grad()
def test_a_frame_rate_is_heard(tiny: ImageModel) -> None:
    video_model = loud(MakeAVideo(), tiny)
    few = Sampling(num_frames=2, num_steps=2, guidance=2.0, width_px=64, height_px=64)

    def drawn(**more: torch.Tensor) -> torch.Tensor:
        return generate(video_model, [Prompt("a red circle", 0)], few, more=more)

    slow, fast = drawn(fps=torch.tensor([2.0])), drawn(fps=torch.tensor([24.0]))
    assert not torch.allclose(slow, fast, atol=1e-4)
    assert torch.equal(drawn(fps=torch.tensor([2.0])), slow)


def test_skips_grow_in_the_course_of_training() -> None:
    rates, keys = FrameRates(max_skip=4), [(f"s{i}", 0) for i in range(1000)]
    means = []
    for progress in (0.0, 0.5, 1.0):
        skips = rates.skips(Draws(0, keys, progress), torch.device("cpu"))
        assert skips.unique().tolist() == [1, 2, 3, 4]
        means.append(float(skips.float().mean()))
    assert means[0] < 1.8 < means[1] < 3.2 < means[2]
    alike = FrameRates(max_skip=4, sharpness=0).skips(Draws(0, keys, 0.0), torch.device("cpu"))
    assert abs(float(alike.float().mean()) - 2.5) < 0.15


def test_every_clip_is_cut_at_its_own_skip() -> None:
    numbers = torch.arange(9).expand(2, 9).clone()
    assert FrameRates(max_skip=4).cut(numbers, torch.tensor([1, 4])).tolist() == [[0, 1, 2], [0, 4, 8]]


def test_the_interpolator_makes_76_frames_of_16() -> None:
    context = replace(MakeAVideo().context, which=WhichFrames.EVERY)
    assert int(context.mask(76, torch.tensor([1])).sum()) == 16


# -- stills and clips ----------------------------------------------------------------------------------------
def losses(model: VideoModel, recipe: MakeAVideo, frames: int, captions: list[str]) -> float:
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 255, (2, frames, 3, 64, 64), dtype=torch.uint8, generator=draw)
    batch = Batch(keys=[("a", 0), ("b", 0)], captions=captions, video=video)
    batch.rates = torch.tensor([8.0, 8.0])
    with torch.no_grad():
        objective = recipe.objective(model.model)
        return float(objective.loss(model, batch, Draws(0, batch.keys))["loss"])


def test_captions_of_clips_stay_unheard_and_those_of_stills_do_not(tiny: ImageModel) -> None:
    recipe = MakeAVideo(text_drop=0.0)
    video_model = loud(recipe, tiny)
    one, other = ["a red circle", "a blue star"], ["a green square", "two squares"]
    assert losses(video_model, recipe, 5, one) == losses(video_model, recipe, 5, other)
    assert losses(video_model, recipe, 1, one) != losses(video_model, recipe, 1, other)
    told = replace(recipe, unlabelled=False)
    assert losses(video_model, told, 5, one) != losses(video_model, told, 5, other)


def test_checkpointed_is_plain_with_stills_and_clips_in_one_backward(tiny: ImageModel) -> None:
    model = tiny.to("cpu", torch.float64)
    grads = []
    for checked in (False, True):
        video_model = loud(EXTRAPOLATOR, model)
        video_model.unet.double().requires_grad_(True)
        if checked:
            video_model.enable_gradient_checkpointing()
        draw = torch.Generator().manual_seed(4)
        total = torch.zeros(())
        for frames in (3, 1):
            latents = torch.randn(2, frames, 4, 8, 8, generator=draw, dtype=torch.float64)
            fields: dict[str, Any] = {"caption": ["a red circle", "a blue star"], "latents": latents}
            if frames > 1:
                fields |= {"fps": torch.tensor([8.0, 2.0]), GIVEN: torch.tensor([[True, False, False]] * 2)}
            encoded = video_model.encode(video_model.prepare(fields))
            noise = torch.randn(latents.shape, generator=draw, dtype=torch.float64)
            total = (
                total + Denoising().errors(video_model, encoded, latents, torch.tensor([9, 800]), noise).sum()
            )
        total.backward()
        grads.append(
            {n: p.grad.clone() for n, p in video_model.unet.named_parameters() if p.grad is not None}
        )
        video_model.unet.zero_grad()
        model.unet.disable_gradient_checkpointing()
        video_model.eject()
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) > 500
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=1e-5, atol=1e-7)


def test_the_kind_of_a_batch_hangs_on_its_number_alone() -> None:
    def batches(first: int, rank: int = 0, world_size: int = 1) -> list[list[tuple[int, int, int]]]:
        made = ClipAndStillBatches(
            (7, 5), 0.3, 2, 0, first=first, num_batches=20, rank=rank, world_size=world_size
        )
        assert len(made) == 20 - first
        return list(made)

    whole = batches(0)
    assert batches(8) == whole[8:], "a resumed run goes on in both orders"
    kinds = [{part for part, _, _ in batch} for batch in whole]
    assert all(len(kind) == 1 for kind in kinds)
    assert sum(kind == {1} for kind in kinds) == stills_before(20, 0.3) == 6
    ranks = [batches(0, rank, 2) for rank in (0, 1)]
    assert [b[0][0] for b in ranks[0]] == [b[0][0] for b in ranks[1]] == [b[0][0] for b in whole]
    seen = [draw for batch in whole for draw in batch if draw[0] == 1]
    assert len(set(seen[:5])) == 5, "every still once in an epoch"


def job(shards: Path, folder: Path, steps: int, resume: bool = False, stop: int = 0) -> Job:
    return Job(
        recipe=MakeAVideo(rates=FrameRates(max_skip=2)),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(
            path=str(shards),
            stills=str(shards),
            stills_share=0.5,
            window=Window(num_frames=3),
            batch_size=2,
            val_clips=4,
            cache=True,
        ),
        optimisation=Optimisation(lr=1e-3, eps=1e-3, ema_decay=0.9),
        settings=TrainerSettings(
            max_steps=steps,
            val_every_steps=100,
            checkpoint_every_steps=1,
            log_every_steps=1,
            num_threads=1,
            preflight=not resume,
        ),
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name="run",
        seed=3,
        resume=resume,
        plain={},
    )


def test_it_trains_on_cached_stills_and_clips_resumes_and_comes_back(
    toy_shards: Path, tmp_path: Path
) -> None:
    fit(job(toy_shards, tmp_path / "run", 2))
    fit(job(toy_shards, tmp_path / "run", 3, resume=True))
    tensors, card = load_adapter(tmp_path / "run" / "adapter.safetensors")
    assert {name.split(".")[1] for name in tensors} == {"image_unet", "inserted"}
    checkpoint = open_checkpoint(str(tmp_path / "run"), "blank:toybox:0")
    assert isinstance(checkpoint.recipe, MakeAVideo)
    few = Sampling(num_frames=2, num_steps=1, guidance=1.0, width_px=32, height_px=32)
    assert checkpoint.sample([Prompt("a red circle", 0)], few).shape == (1, 2, 3, 32, 32)
    assert card.summary["steps"] == 3


# -- what is refused -----------------------------------------------------------------------------------------
def no_rate(recipe: MakeAVideo) -> object:
    video = torch.zeros(1, 5, 3, 64, 64, dtype=torch.uint8)
    model = blank(Blank.SD15_NARROW, seed=0).freeze()
    batch = Batch(keys=[("clip-7", 0)], captions=[""], video=video)
    return recipe.objective(model).loss(assemble(recipe, model), batch, Draws(0, batch.keys))


def fps_of(rate: float) -> object:
    model = blank(Blank.SD15_NARROW, seed=0).freeze()
    few = Sampling(num_frames=2, num_steps=1, width_px=64, height_px=64)
    fps = torch.tensor([rate])
    return generate(assemble(MakeAVideo(), model), [Prompt("a red circle")], few, more={"fps": fps})


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a frame rate of 0": (partial(fps_of, 0.0), r"fps must be above 0, got 0; .* or give fps=8"),
    "clips that say no rate": (partial(no_rate, MakeAVideo()), r"frame rate of sample 'clip-7'"),
    "a window too short for the skip": (
        partial(FrameRates(max_skip=8).kept, 8),
        r"max_skip=8 leaves one frame of 8; set data.window.num_frames=121",
    ),
    "a skip of 0": (partial(FrameRates, max_skip=0), "max_skip of at least 1"),
    "stills of nowhere": (partial(Corpus, stills_share=0.3), "asks for stills and data.stills='' names"),
    "a share of nothing": (partial(Corpus, stills="a"), "give both or neither"),
    "nothing but stills": (partial(Corpus, stills="a", stills_share=1.0), "0 to below 1, got 1"),
    "an odd embedding": (partial(FpsEmbeddingSpec, width=3), "even number of sinusoids, got width=3"),
    "negative heads": (partial(PseudoAttentionSpec, heads=-1), "at least 1 head"),
}


@pytest.mark.parametrize(("made", "words"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_means_nothing_is_refused_in_a_sentence(made: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made()


def test_layers_stand_where_they_belong(tiny: ImageModel) -> None:
    video_model = assemble(MakeAVideo(), tiny)
    wrong = [
        (Insertion(after(Kind.FF), PseudoAttentionSpec(), name="x"), "behind a self-attention, got ff"),
        (Insertion(after(Kind.ATTN1), PseudoAttentionSpec(heads=5), name="x"), "must divide the 32 channels"),
        (Insertion(after(Kind.FF), FpsEmbeddingSpec(), name="x"), "beside diffusion time, got ff"),
    ]
    for insertion, words in wrong:
        with pytest.raises(ValueError, match=words):
            add(video_model, [insertion])


def test_a_corpus_without_captions_or_samples_gives_no_stills(toy_shards: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    corpus = Corpus(path=str(toy_shards), stills=nowhere, stills_share=0.5, val_clips=4)
    with pytest.raises(ValueError, match=r"data\.stills=\S+: \S+ is no folder"):
        split(corpus, 0, 64)
    one = Corpus(video="clip.mp4", prompt="a", stills=nowhere, stills_share=0.5)
    with pytest.raises(ValueError, match=r"goes with shards of clips, got data\.video=clip\.mp4"):
        split(one, 0, 64)
