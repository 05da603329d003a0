"""Memory is foretold from shapes: against what torch's allocator gave to real runs. Nothing is fitted, so
every shape is held out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from vgen.backbones.blank import Blank, blank
from vgen.backbones.without_weights import without_weights
from vgen.data.clips import Window
from vgen.layers.motion_module import MotionModuleSpec
from vgen.methods import Recipe
from vgen.methods.animatediff import AnimateDiff
from vgen.methods.image.latent_diffusion import LatentDiffusion
from vgen.training.foretold import ClipShape, Step, StepCounts, counts_of
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.optimisation import Optimisation, Optimiser
from vgen.training.run import fit
from vgen.training.strategies import Precision, Spread, TrainerSettings

MOST_WRONG = 0.10


def motion() -> AnimateDiff:
    return AnimateDiff(motion=MotionModuleSpec(heads=4))


def step_of(
    recipe: Recipe,
    num_clips: int,
    num_frames: int,
    *,
    cached: bool = True,
    on_gpu: bool = False,
    **knobs: Any,
) -> Step:
    """On the toybox's image model; ``knobs`` are the trainer's, and ``optimisation``."""
    optimisation = knobs.pop("optimisation", Optimisation(ema_decay=0.9))
    return Step(
        recipe=recipe,
        model=lambda: blank(Blank.TOYBOX),
        optimisation=optimisation,
        settings=TrainerSettings(**knobs),
        clips=ClipShape(num_clips=num_clips, num_frames=num_frames, height_px=64, width_px=64, cached=cached),
        on_gpu=on_gpu,
    )


CASES: dict[str, tuple[Recipe, int, int, bool, dict[str, Any]]] = {
    "fp32": (motion(), 2, 8, True, {}),
    "pixels": (motion(), 3, 5, False, {}),
    "checkpointing": (motion(), 2, 8, True, {"gradient_checkpointing": True}),
    "bf16": (motion(), 2, 6, True, {"precision": Precision.BF16}),
    "accumulate": (motion(), 1, 4, True, {"accumulate": 2}),
    "stills, the whole UNet": (LatentDiffusion(), 8, 1, True, {}),
}


def real_peak(make: Callable[[], Job], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Job]:
    """The most bytes at once between the first training step and the last, all that was taken before
    included: the image model is opened inside. Every allocation and release of torch's CPU allocator counts,
    kernels' own too."""
    times: list[int] = []
    step = Learner.training_step

    def noted(self: Learner, batch: object, index: int) -> object:
        times.append(time.time_ns())
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", noted)
    monkeypatch.setattr(Learner, "on_train_end", lambda self: times.append(time.time_ns()), raising=False)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        job = make()
        fit(job)
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    taken = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
    live, peak = 0, 0
    for at, num_bytes in taken:
        live += num_bytes
        if times[0] <= at <= times[-1]:
            peak = max(peak, live)
    return peak, job


@pytest.mark.parametrize("name", ["checkpointing", *(pytest.param(n, marks=pytest.mark.slow) for n in CASES)])
def test_the_peak_is_that_of_a_real_run(
    name: str, quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, num_clips, num_frames, cached, knobs = CASES[name]

    def make() -> Job:
        job = quick(3, **knobs)
        job.recipe = recipe
        job.corpus = replace(
            job.corpus, batch_size=num_clips, window=Window(num_frames=num_frames), cache=cached
        )
        return job

    real, job = real_peak(make, monkeypatch)
    step = step_of(recipe, num_clips, num_frames, cached=cached, optimisation=job.optimisation, **knobs)
    foretold = counts_of(replace(step, model=lambda: without_weights(job.model)))
    assert foretold.peak == pytest.approx(real, rel=MOST_WRONG)


def test_rows_are_what_is_known_of_them() -> None:
    counts = counts_of(step_of(motion(), 2, 4))
    assert counts.learning == counts.gradients == counts.averages == 4 * counts.num_learning
    assert counts.moments == pytest.approx(2 * counts.learning, rel=0.01)
    assert counts.activations > 0
    unaveraged = counts_of(step_of(motion(), 2, 4, optimisation=Optimisation(ema_decay=0.0)))
    assert unaveraged.averages == 0
    assert counts.peak - unaveraged.peak == counts.averages


def test_muon_has_one_moment_for_matrices() -> None:
    counts = counts_of(step_of(motion(), 1, 2, optimisation=Optimisation(kind=Optimiser.MUON)))
    assert counts.learning < counts.moments < 2 * counts.learning


def activations(num_clips: int, num_frames: int, **knobs: Any) -> int:
    return counts_of(step_of(motion(), num_clips, num_frames, on_gpu=True, **knobs)).activations


def test_activations_grow_with_clips_and_shrink_with_checkpointing() -> None:
    one, two, four = (activations(n, 4) for n in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    assert activations(4, 4, gradient_checkpointing=True) < 0.6 * four
    assert activations(4, 4, precision=Precision.BF16) < 0.9 * four


def test_checkpointing_computes_forward_twice() -> None:
    plain, again = (
        counts_of(step_of(motion(), 2, 4, gradient_checkpointing=on)).flops for on in (False, True)
    )
    assert 1.15 * plain < again < 1.5 * plain


def test_what_deepspeed_divides_is_left_to_it() -> None:
    counts = counts_of(step_of(motion(), 1, 2, strategy=Spread.ZERO2, precision=Precision.BF16, on_gpu=True))
    assert counts.gradients == counts.moments == counts.averages == 0
    assert counts.learning == 2 * counts.num_learning


def test_foretelling_leaves_chance_and_the_model_as_they_were() -> None:
    model = blank(Blank.TOYBOX, seed=0)
    weights = {name: p.clone() for name, p in model.unet.named_parameters()}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found: StepCounts = counts_of(replace(step_of(motion(), 1, 2), model=lambda: without_weights(model)))
    assert found.peak > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, weights[name]) for name, p in model.unet.named_parameters())


def test_published_shapes_have_their_published_sizes(tmp_path: Path) -> None:
    """Parameters of the UNets, as their model cards count them."""
    from vgen.backbones.blank import blank_unet

    sizes = {Blank.SD15: 859_520_964, Blank.SD21: 865_910_724, Blank.SDXL: 2_567_463_684}
    for size, wanted in sizes.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in blank_unet(size).parameters()) == wanted
