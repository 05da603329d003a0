"""Training: gradients that are what they claim to be, and runs that lose nothing."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import Context, ImageModel
from vgen.backbones.image_model_folder import load, save
from vgen.backbones.video_unet import VideoUNet
from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.data.mp4 import encode_mp4
from vgen.data.prepare import Prepare, prepare
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.draws import Draws
from vgen.formats.adapter import load_adapter
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import Recipe
from vgen.methods._sampling import TRAINED, Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.image.autoencoder import Autoencoder
from vgen.methods.image.clip_pair import ClipPair
from vgen.methods.image.latent_diffusion import LatentDiffusion
from vgen.methods.tune_a_video import TuneAVideo
from vgen.training.checkpoint_folder import WEIGHTS
from vgen.training.checkpoints import latest
from vgen.training.corpus import Corpus, split
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.loader import loaders
from vgen.training.optimisation import Decay, Optimisation
from vgen.training.preflight import preflight
from vgen.training.records import LoggerSettings
from vgen.training.run import fit
from vgen.training.samples import SampleSettings
from vgen.training.strategies import Precision, TrainerSettings

CAPTIONS = [
    "a small red circle rests on a black background",
    "a large blue star moves up fast on a gray background",
]


def learner(**knobs: Any) -> Learner:
    torch.manual_seed(0)
    made = Learner(
        AnimateDiff(**knobs), blank(Blank.SD15_NARROW, seed=0), Optimisation(lr=1e-3), seed=0, max_steps=10
    )
    for layer in made.unet.inserted.values():
        torch.nn.init.normal_(layer.temporal_transformer.proj_out.weight, std=0.05)
    return made


def batch(size: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(size, 3, 4, 8, 8, generator=generator)
    return Batch(
        keys=[(str(i), 0) for i in range(size)],
        captions=[CAPTIONS[i % 2] for i in range(size)],
        latents=latents,
    )


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    """Equal up to fp32 rounding, relative to each tensor's own size."""
    for name, value in want.items():
        assert float((got[name] - value).norm()) <= 2e-4 * float(value.norm()) + 1e-8, name


def gradients(made: Learner, of: Batch, scale: float = 1.0) -> dict[str, torch.Tensor]:
    (made.objective.loss(made.video_model, of, Draws(0, of.keys))["loss"] * scale).backward()
    return {name: p.grad.clone() for name, p in made.learning.items()}


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    plain, checked = learner(), learner()
    checked.unet.train()
    checked.unet.enable_gradient_checkpointing()
    want, got = gradients(plain, batch()), gradients(checked, batch())
    assert_same(got, want)


def test_gradient_checkpointing_keeps_little_of_the_inserted_layers() -> None:
    """They lie outside the blocks that diffusers recomputes, and hold most of what is left there."""

    def kept_bytes(made: Learner) -> int:
        total = 0

        def count(value: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += value.numel() * value.element_size()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            made.objective.loss(made.video_model, batch(), Draws(0, batch().keys))
        return total

    plain, blocks, checked = learner(), learner(), learner()
    for made in (blocks, checked):
        made.unet.train()
        made.unet.enable_gradient_checkpointing()
    for layer in blocks.unet.inserted.values():
        layer.recomputed = False
    assert kept_bytes(checked) < 0.5 * kept_bytes(blocks) < 0.5 * kept_bytes(plain)


def test_accumulation_equals_the_large_batch() -> None:
    large, small = learner(), learner()
    for made in (large, small):
        made.unet.double()  # in fp32 some gradients of these random weights are rounding noise
    whole = batch(4)
    want = gradients(large, whole)
    for rows in (slice(0, 2), slice(2, 4)):
        part = Batch(keys=whole.keys[rows], captions=whole.captions[rows], latents=whole.latents[rows])
        got = gradients(small, part, 0.5)
    assert_same(got, want)


def test_preflight_passes_a_sound_recipe_and_leaves_no_trace() -> None:
    made = Learner(
        AnimateDiff(mid_block=True), blank(Blank.SD15_NARROW), Optimisation(), seed=0, max_steps=10
    )
    before = copy.deepcopy(made.parts.state_dict())
    assert preflight(made, batch()) == len(made.learning) == 21 * 26
    assert all(torch.equal(v, before[k]) for k, v in made.parts.state_dict().items())
    assert all(p.grad is None for p in made.parts.parameters())


def test_preflight_names_what_gets_no_gradient() -> None:
    made = learner()
    made.unet.inserted["down_blocks/0/attentions/0"].forward = lambda x: x
    with pytest.raises(
        ValueError,
        match=r"26 of \d+ tensors learn and get no gradient \(the first is .*0/attentions/0.*usual",
    ):
        preflight(made, batch())


@pytest.mark.parametrize(
    ("recipe", "cells", "why"),
    [
        (AnimateDiff(), 16, r"one frame.*data\.window\.num_frames to 2"),
        (LatentDiffusion(), 8, r"at 64 px .* data\.size_px to 128"),
    ],
    ids=["one frame", "one cell"],
)
def test_preflight_says_which_clips_teach_attention_nothing(recipe: Recipe, cells: int, why: str) -> None:
    made = Learner(recipe, blank(Blank.SD15_NARROW), Optimisation(), seed=0, max_steps=10)
    small = batch(2)
    latents = torch.randn(2, 1, 4, cells, cells, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"learn and get a gradient of zero .*{why}"):
        preflight(made, Batch(keys=small.keys, captions=small.captions, latents=latents))


def test_preflight_refuses_the_reentrant_checkpoint_that_starves_down_blocks() -> None:
    """Tune-A-Video's shipped default loses 42 of 112 tensors this way."""
    from torch.utils.checkpoint import checkpoint

    made = learner()
    first = made.unet.inserted["down_blocks/0/attentions/0"]
    run = first.forward
    first.forward = lambda x: checkpoint(run, x, use_reentrant=True)
    unheard = pytest.warns(UserWarning, match="None of the inputs have requires_grad")
    with unheard, pytest.raises(ValueError, match=r"get no gradient \(the first is .*down_blocks"):
        preflight(made, batch())


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_preflight_sees_what_the_run_will(
    tmp_path: Path, toy_shards: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen weights as they will be, autocast, and no more clips than a batch holds: else it needs more
    memory than the run."""
    seen: list[tuple[int, torch.dtype, bool]] = []

    def look(made: Learner, of: Batch, half: torch.dtype | None) -> int:
        seen.append((len(of), made.unet.image_unet.conv_in.weight.dtype, half is not None))
        return preflight(made, of, half)

    monkeypatch.setattr("vgen.training.run.preflight", look)
    wish = job(tmp_path / precision.value, toy_shards, 1, precision=precision, preflight=True)
    wish.corpus = replace(wish.corpus, batch_size=1)
    fit(wish)
    assert seen == [(1, torch.float32, False) if precision is Precision.FP32 else (1, torch.bfloat16, True)]


def test_a_part_that_the_image_model_lacks_is_named() -> None:
    model = blank(Blank.TOYBOX)
    model.image_encoder = None
    with pytest.raises(
        ValueError, match=r"trains image_encoder, which image model .* lacks; it has unet, vae, text_encoder"
    ):
        Learner(ClipPair(), model, Optimisation(), seed=0, max_steps=1)


def test_preflight_names_a_frozen_parameter_with_a_gradient() -> None:
    made = learner()
    made.unet.image_unet.conv_in.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"1 tensors are frozen and get a gradient \(.*conv_in\.weight"):
        preflight(made, batch())


def test_schedules() -> None:
    cosine = Optimisation(warmup_steps=10, decay=Decay.COSINE)
    assert cosine.factor(0, 100) == pytest.approx(0.1)
    assert cosine.factor(10, 100) == 1
    assert cosine.factor(100, 100) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"optim\.lr must be positive"):
        Optimisation(lr=0)


def job(folder: Path, shards: Path, steps: int, *, resume: bool = False, **settings: Any) -> Job:
    trainer = TrainerSettings(
        max_steps=steps,
        val_every_steps=2,
        checkpoint_every_steps=2,
        log_every_steps=1,
        num_threads=1,
        **settings,
    )
    return Job(
        recipe=AnimateDiff(motion=MotionModuleSpec(heads=4)),
        model=blank(Blank.TOYBOX, seed=0),
        corpus=Corpus(path=str(shards), window=Window(num_frames=4), batch_size=2, val_clips=4, cache=True),
        optimisation=Optimisation(lr=1e-3, warmup_steps=2, ema_decay=0.9),
        settings=trainer,
        logger=LoggerSettings(),
        samples=SampleSettings(),
        folder=folder,
        name=folder.name,
        seed=3,
        resume=resume,
        plain={"note": "test"},
    )


@pytest.mark.slow
def test_a_run_that_accumulates_equals_the_one_with_the_large_batch(tmp_path: Path, toy_shards: Path) -> None:
    """The same samples in each step, and one schedule, one average, one clipping of the whole gradient."""

    def learnt(name: str, size: int, accumulate: int) -> dict[str, torch.Tensor]:
        wish = job(tmp_path / name, toy_shards, 3, accumulate=accumulate, preflight=False)
        wish.corpus = replace(wish.corpus, batch_size=size)
        wish.optimisation = replace(
            wish.optimisation, eps=1e-3, grad_clip=0.05
        )  # so large an eps that rounding can turn no update round
        return load_adapter(fit(wish) / "adapter.safetensors")[0]

    def losses(name: str) -> list[float]:
        rows = csv.DictReader((tmp_path / name / "metrics" / "metrics.csv").read_text().splitlines())
        return [float(row["train/loss"]) for row in rows if row["train/loss"]]

    large, small = learnt("large", 4, 1), learnt("small", 2, 2)
    for name, value in large.items():
        assert float((small[name] - value).norm()) <= 1e-3 * float(value.norm()), name
    assert losses("small") == pytest.approx(losses("large"), rel=1e-4)
    assert any(not torch.equal(value, learnt("one", 2, 1)[name]) for name, value in large.items())


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, toy_shards: Path) -> None:
    whole = fit(job(tmp_path / "whole", toy_shards, 4))
    fit(job(tmp_path / "parts", toy_shards, 2))
    parts = fit(job(tmp_path / "parts", toy_shards, 4, resume=True))
    want, _ = load_adapter(whole / "adapter.safetensors")
    got, card = load_adapter(parts / "adapter.safetensors")
    assert card.recipe == "animatediff"
    assert card.summary["steps"] == 4
    assert [card.summary[name] for name in TRAINED] == [4, 64, 64]
    assert card.summary["held_out"] == "held out: 4 clips of 4 of 20 videos (data.val_seed=0)"
    for name, value in want.items():
        assert torch.equal(got[name], value), f"{name}: the EMA after a resume differs"
    figures = (whole / "metrics" / "metrics.csv").read_text()
    columns = (
        "train/loss",
        "val/loss",
        "time/shuffle_gap",
        "time/loss_q1",
        "time/loss_q4",
        "speed/clips_per_s",
        "speed/frames_per_s",
        "speed/peak_memory_gb",
        "optim/lr",
        "optim/grad_norm",
    )
    for column in columns:
        assert column in figures.splitlines()[0]


def test_one_clip_is_encoded_before_the_first_step_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original encodes pixels and text anew in each of its 500 steps."""
    read, count = [], {"frames": 0, "texts": 0}
    encode, encode_text = ImageModel.encode, ImageModel.encode_text

    def counted(self: ImageModel, video: torch.Tensor, **how: Any) -> torch.Tensor:
        count["frames"] += video.shape[0] * video.shape[1]
        return encode(self, video, **how)

    def counted_text(self: ImageModel, prompts: Sequence[str]) -> Context:
        count["texts"] += sum(text != "" for text in prompts)
        return encode_text(self, prompts)

    monkeypatch.setattr(ImageModel, "encode", counted)
    monkeypatch.setattr(ImageModel, "encode_text", counted_text)
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), dtype=np.uint8)
    (tmp_path / "clip.mp4").write_bytes(encode_mp4(noise, fps=8, crf=18))
    for steps in (2, 6):
        wish = job(tmp_path / f"run{steps}", tmp_path, steps)
        corpus = Corpus(
            video=str(tmp_path / "clip.mp4"),
            prompt="a red circle",
            window=Window(num_frames=4),
            batch_size=1,
            val_clips=1,
            cache=True,
            cache_dir=str(tmp_path / f"cache{steps}"),
        )
        count.update(frames=0, texts=0)
        fit(replace(wish, recipe=TuneAVideo(), corpus=corpus))
        read.append(dict(count))
    assert read[0] == read[1] == {"frames": 8, "texts": 2}, (
        "once for training and once for its own held-out figures"
    )


def test_encoding_a_corpus_tells_how_far_it_is(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vgen.data.cache_building._TELL_EVERY_SECONDS", 0.0)
    wish = job(tmp_path / "run", toy_shards, 1)
    with caplog.at_level("INFO"):
        fit(replace(wish, corpus=replace(wish.corpus, cache_dir=str(tmp_path / "cache"))))
    assert re.search(r"encoding clips, once for all epochs: (\d+) of \1, 0.0 min left", caplog.text)


def test_a_share_of_training_batches_is_coarse(toy_shards: Path) -> None:
    """Every second frame, whole batches alike, the same ones again; held-out batches never."""
    reader = Corpus(
        path=str(toy_shards), window=Window(num_frames=8, coarse_share=0.5), batch_size=2, val_clips=4
    )
    train, val = loaders(split(reader, 0, 64), reader, seed=0, num_draws=80, consumed=0, rank=0, world_size=1)
    lengths = [batch.video.shape[1] for batch in train]
    assert 8 <= lengths.count(4) <= 32, lengths
    assert lengths.count(4) + lengths.count(8) == 40
    assert [batch.video.shape[1] for batch in train] == lengths
    assert {batch.video.shape[1] for batch in val} == {8}
    whole = replace(reader, window=Window(num_frames=8))
    full, _ = loaders(split(whole, 0, 64), whole, seed=0, num_draws=80, consumed=0, rank=0, world_size=1)
    for coarse, fine in zip(train, full, strict=True):
        assert torch.equal(coarse.video, fine.video[:, :: 8 // coarse.video.shape[1]])
    with pytest.raises(ValueError, match=r"coarse_share is a share of the batches, 0 to 1, got 2"):
        Window(coarse_share=2)


def test_a_checkpoint_holds_what_changed_and_is_data(tmp_path: Path, toy_shards: Path) -> None:
    folder = fit(job(tmp_path / "run", toy_shards, 2))
    found = latest(folder / "checkpoints")
    assert found is not None
    assert all(name.startswith("unet.inserted.") for name in found.names[WEIGHTS])
    assert found.state.ema_updates == 2
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["LATEST", "best", "step-0000002"]


@pytest.mark.parametrize("decoder_only", [True, False])
def test_a_vae_of_which_the_decoder_alone_learnt_keeps_its_latents(
    tmp_path: Path, toy_shards: Path, decoder_only: bool
) -> None:
    before = blank(Blank.TOYBOX, seed=0)
    wish = job(tmp_path / "run", toy_shards, 2)
    wish.recipe, wish.corpus = (
        Autoencoder(decoder_only=decoder_only),
        replace(wish.corpus, window=Window(num_frames=1), cache=False),
    )
    after = load(fit(wish) / "image_model")
    pixels = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        was, now = before.encode(pixels).float(), after.encode(pixels).float()
        pictures = before.decode(was).float(), after.decode(was).float()
    assert torch.allclose(was, now, atol=2e-2) is decoder_only  # a saved model is rounded to half precision
    assert not torch.equal(*pictures)


def test_what_is_frozen_in_an_image_model_is_written_as_it_came(tmp_path: Path, toy_shards: Path) -> None:
    """In half precision it is cast for training, and a rounded value must not find its way into the file."""
    save(blank(Blank.TOYBOX, seed=0), tmp_path / "untouched")
    wish = job(tmp_path / "run", toy_shards, 1, precision=Precision.BF16)
    wish.recipe, wish.corpus = (
        LatentDiffusion(),
        replace(wish.corpus, window=Window(num_frames=1), cache=False),
    )
    written = fit(wish) / "image_model"
    for part in ("vae", "text_encoder"):
        [file] = (tmp_path / "untouched" / part).glob("*.safetensors")
        want, got = load_file(file), load_file(written / part / file.name)
        assert all(torch.equal(got[name], value) for name, value in want.items()), part


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"num_frames": 2}, r"has 2 frames where 4 at stride 1 need 4"),
        ({"size_px": 40}, r"clips of \S+held are 40 x 40 px; .* multiples of 16"),
    ],
)
def test_held_out_clips_that_do_not_fit_are_refused_before_the_first_step(
    tmp_path: Path, toy_shards: Path, shape: dict[str, int], message: str
) -> None:
    made = {"num_frames": 4, "size_px": 64} | shape
    prepare(
        Prepare(data=ToyboxSource(num_clips=2, seed=6), out=str(tmp_path / "held"), num_processes=1, **made),
        lambda *_: None,
    )
    wish = job(tmp_path / "run", toy_shards, 4)
    with pytest.raises(ValueError, match=message):
        fit(replace(wish, corpus=replace(wish.corpus, val_path=str(tmp_path / "held"), cache=False)))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mixed_precision_runs(tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass through the UNet is under autocast, those of hooks too: CUDA refuses bfloat16 beside
    float32, a CPU mostly does not."""
    casts: list[bool] = []
    forward = VideoUNet.forward
    monkeypatch.setattr(
        VideoUNet,
        "forward",
        lambda *a, **k: casts.append(torch.is_autocast_enabled("cpu")) or forward(*a, **k),
    )
    wish = job(tmp_path / "bf16", toy_shards, 2, precision=Precision.BF16, preflight=True)
    sampling = Sampling(num_frames=2, num_steps=1, width_px=32, height_px=32)
    wish.samples = SampleSettings(prompts=["a red circle rests"], every_steps=2, sampling=sampling)
    folder = fit(wish)
    assert len(casts) > 10, "pre-flight, steps, validation, use of time, a sample"
    assert all(casts)
    tensors, _ = load_adapter(folder / "adapter.safetensors")
    assert all(torch.isfinite(v).all() for v in tensors.values())


def test_samples_are_drawn_once_at_their_step_though_batches_accumulate(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        "vgen.training.samples.SampleClips._draw", lambda self, trainer, module, step: drawn.append(step)
    )
    for steps in (2, 4):
        wish = job(tmp_path / "run", toy_shards, steps, resume=steps == 4, accumulate=2, preflight=False)
        fit(replace(wish, samples=SampleSettings(prompts=["a red circle rests"], every_steps=2)))
    assert drawn == [2, 4]


def test_sample_clips_are_drawn_with_the_average_and_leave_the_weights(
    tmp_path: Path, toy_shards: Path
) -> None:
    wish = job(tmp_path / "run", toy_shards, 2)
    sampling = Sampling(num_frames=2, num_steps=1, width_px=32, height_px=32)
    wish.samples = SampleSettings(prompts=["a red circle rests"], every_steps=2, sampling=sampling)
    drawn = fit(wish)
    assert [p.name for p in (drawn / "samples").iterdir()] == ["step-0000002-0.mp4"]
    plain = fit(job(tmp_path / "plain", toy_shards, 2))
    want, _ = load_adapter(plain / "adapter.safetensors")
    got, _ = load_adapter(drawn / "adapter.safetensors")
    assert all(torch.equal(got[name], value) for name, value in want.items())
