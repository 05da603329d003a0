"""``vgen plan``: what a training will take, before there is a GPU to take it from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from hydra.core.config_store import ConfigStore
from torch._subclasses.fake_tensor import FakeTensorMode

from vgen.app.config import TrainRun, offer_training, run_hydra
from vgen.app.loading import Backbone
from vgen.app.plan_shown import Planned, shown
from vgen.app.train import beneath
from vgen.backbones.absent import no_image_model
from vgen.backbones.blank import Blank, blank
from vgen.backbones.image_model import ImageModel
from vgen.backbones.without_weights import without_weights
from vgen.methods import name_of
from vgen.methods._assembly import Part
from vgen.spec import Choice, field, spec
from vgen.training.corpus import split
from vgen.training.footprint import bytes_sent, footprint
from vgen.training.foretold import ClipShape, Step, StepCounts, counts_of
from vgen.training.preparing import needs_of
from vgen.training.probe import Probed, probe
from vgen.training.scaling import Network
from vgen.training.strategies import Accelerator, Precision, TrainerSettings, refuse_unfit

BATCHES = (1, 2, 4)
"""Clips of the batches that are counted; larger ones lie on the line of the last two."""


class Shapes(Choice):
    """Those of published models. ``auto``: of ``backbone``, else of the experiment by its name."""

    AUTO = "auto"
    SD15 = "sd15"
    SD21 = "sd21"
    SDXL = "sdxl"


@spec
class PlanRun(TrainRun):
    """The sections of ``vgen train``. ``shapes`` stand for an image model that is not there, ``size_px`` for
    shards, ``gpus`` for ``trainer.devices``. ``probe`` times a few steps on this machine."""

    shapes: Shapes = Shapes.AUTO
    size_px: int = 0
    gpus: int = 0
    probe: bool = False
    network: Network = field(default_factory=Network)

    def __post_init__(self) -> None:
        for name in ("size_px", "gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An image model by name: what makes it without weights, and what opens it with some."""

    name: str
    shapes: Callable[[], ImageModel]
    weights: Callable[[], ImageModel]


def offer() -> None:
    offer_training()
    ConfigStore.instance().store(name="plan_schema", node=PlanRun)


def main() -> None:
    run_hydra("plan", offer, lambda run, _: print(shown(plan(run))))


def plan(run: PlanRun) -> Planned:
    """Everything that is foretold of a training."""
    experiment = _experiment()
    opened = _opened(run, experiment)
    settings = replace(run.trainer, devices=run.gpus, num_nodes=1) if run.gpus else run.trainer
    _refuse(run, settings)
    step = Step(
        recipe=run.method,
        model=opened.shapes,
        optimisation=run.optim,
        settings=settings,
        clips=_clips(run, opened, experiment),
        on_gpu=settings.accelerator is not Accelerator.CPU,
        beneath=_beneath(run, opened),
    )
    counts = _counted(step)
    return Planned(
        title=f"{name_of(run.method)} on {opened.name}",
        step=step,
        counts=counts,
        footprint=footprint(counts, settings, settings.world_size),
        peaks=_peaks(step, counts) if step.on_gpu else {},
        sent={num: bytes_sent(counts, settings, num) for num in _numbers(settings)},
        network=run.network,
        probed=_probed(step, opened) if run.probe else None,
    )


def _beneath(run: PlanRun, opened: Opened) -> list[Part]:
    """The adapters that stay frozen; they are read, for what they are is in them."""
    if not run.stack and not run.loras:
        return []
    return [one.part for one in beneath(run, opened.weights())]


def _experiment() -> str:
    given = [word.partition("=")[2] for word in sys.argv[1:] if word.startswith("experiment=")]
    return given[-1] if given else ""


def _opened(run: PlanRun, experiment: str) -> Opened:
    if not run.method.on_image_model:
        return Opened(name="no image model", shapes=no_image_model, weights=no_image_model)
    size = run.backbone.blank or _shapes(run, experiment)
    if size is None:
        model = run.backbone.open()
        return Opened(name=model.source, shapes=partial(without_weights, model), weights=lambda: model)
    return Opened(name=f"shapes of {size.value}", shapes=partial(blank, size), weights=partial(blank, size))


def _shapes(run: PlanRun, experiment: str) -> Blank | None:
    """Those that are asked for, or those of an experiment whose image model is not named; None: the model
    itself is opened."""
    if run.shapes is not Shapes.AUTO:
        return Blank(run.shapes.value)
    named = [one for one in Shapes if experiment.startswith(one.value)]
    unnamed = not run.backbone.path or run.backbone == Backbone()
    return Blank(named[0].value) if named and unnamed else None


def _refuse(run: PlanRun, settings: TrainerSettings) -> None:
    """Raises ValueError where vgen train would, but for a GPU that is not here."""
    if not run.method.learns():
        raise ValueError(f"method={name_of(run.method)} trains nothing; there is nothing to plan")
    full = replace(settings, precision=Precision.FP32)
    refuse_unfit(full, run.optim, run.method.writes().image_model, run.method.adversaries())


def _clips(run: PlanRun, opened: Opened, experiment: str) -> ClipShape:
    """What the shards hold where they are there; else what is said, by the experiment's name at last."""
    own = _size_px(opened)
    sides = (run.size_px, run.size_px)
    if not run.size_px and Path(run.data.path).is_dir() and run.data.path:
        parts = split(run.data, run.run.seed, own, needs_of(run.method), run.method.subject())
        video = parts.train[0, 0].video
        sides = (own, own) if video is None else (video.shape[2], video.shape[3])
    elif not run.size_px:
        said = re.search(r"_(\d{3,4})(?:_|$)", experiment)
        side = run.data.size_px or (int(said[1]) if said else own)
        sides = (side, side)
    return ClipShape(
        num_clips=run.data.batch_size,
        num_frames=run.data.window.num_frames,
        height_px=sides[0],
        width_px=sides[1],
        cached=run.data.cache and run.method.on_image_model,
    )


def _size_px(opened: Opened) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return opened.shapes().size_px


def _peaks(step: Step, counts: StepCounts) -> dict[bool, dict[int, int]]:
    """On each GPU, with gradient checkpointing and without, by the clips of a batch."""
    found: dict[bool, dict[int, int]] = {}
    for saves in (True, False):
        settings = replace(step.settings, gradient_checkpointing=saves)
        other = replace(step, settings=settings)
        known = {step.clips.num_clips: counts} if saves is step.settings.gradient_checkpointing else {}
        of = {num: known.get(num) or _counted(other.of(num)) for num in BATCHES}
        found[saves] = {n: footprint(c, settings, settings.world_size).peak for n, c in of.items()}
    return found


def _counted(step: Step) -> StepCounts:
    """Raises ValueError where a method asks a tensor for values."""
    try:
        return counts_of(step)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:100]
        raise ValueError(
            f"method={name_of(step.recipe)} cannot be computed on shapes alone ({why}), so that nothing is "
            "foretold of it; train a step and look at speed/peak_memory_gb"
        ) from error


def _numbers(settings: TrainerSettings) -> list[int]:
    """Of GPUs to foretell for."""
    return sorted({settings.world_size, 8, 64, 512})


def _probed(step: Step, opened: Opened) -> Probed:
    on_gpu = step.on_gpu and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    return probe(replace(step, model=opened.weights), device)


if __name__ == "__main__":
    from vgen.app.cli import run

    raise SystemExit(run("plan"))
