"""``vgen train``: a run from Hydra settings to a folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor

from vgen.app import jobs
from vgen.app.config import Resume, TrainRun, job_suffix, offer_training, run_hydra
from vgen.app.loading import Backbone
from vgen.app.secrecy import refuse_secrets, without_passwords
from vgen.app.stacks import RETIRED, SHIPPED_FOLDERS, Layer, adapter_path, read_for, recipe_of, stacked
from vgen.app.terminal import Shown
from vgen.backbones.absent import no_image_model
from vgen.backbones.image_model import ImageModel
from vgen.formats.adapter import file_sha256, load_adapter, unet_fingerprint
from vgen.formats.adapter import plain as plain_of
from vgen.methods import Recipe, name_of
from vgen.methods._assembly import Part
from vgen.training import ranks
from vgen.training.checkpoint_folder import steps
from vgen.training.job import Beneath, Job
from vgen.training.lock import LOCK, OfAnother, RunLock
from vgen.training.quiet import NOISY, WARNING_MODULES
from vgen.training.run import fit
from vgen.training.signals import Signals

log = logging.getLogger(__name__)
BEFORE_THE_FIRST_STEP = {"config.yaml", "run_id.txt", "metrics", "wandb"}


def main() -> None:
    done: list[jobs.Trained] = []
    last: list[Exception] = []

    def failed(error: Exception) -> float:
        last[:] = [error]
        return jobs.say_failed(done, error)

    try:
        run_hydra("train", offer_training, lambda run, plain: _one_of(done, run, plain), failed)
    finally:
        jobs.show(done, Console())
    if last and not any(job.ended for job in done):
        raise last[0]


def _one_of(done: list[jobs.Trained], run: TrainRun, plain: dict[str, Any]) -> float | None:
    """A training, and its line in the table where it is a job of several; its lowest held-out loss, which a
    sweeper minimises."""
    if not job_suffix():
        train_aloud(run, plain)
        return None
    run.run.name = run.run.name or _own_name(run)
    group = run.logger.group or (done[0].group if done else run.run.name)
    run.logger = replace(run.logger, group=group)
    folder, ended = Path(run.run.dir) / (run.run.name + job_suffix()), False
    try:
        train_aloud(run, plain)
        ended = True
    finally:
        done.append(jobs.Trained(folder, group, jobs.settings_of_job(), ended))
    return done[-1].objective()


def _own_name(run: TrainRun) -> str:
    """Of a run that was given none; trials of a W&B sweep may begin in the same second."""
    trial = os.environ.get("WANDB_RUN_ID", "") if "WANDB_SWEEP_ID" in os.environ else ""
    return "-".join([name_of(run.method), ranks.stamp(run.trainer.devices), *([trial] if trial else [])])


def train_aloud(run: TrainRun, plain: dict[str, Any] | None = None) -> Path:
    """A training whose lines and result stand on the terminal."""
    rank = ranks.rank(run.trainer.devices)
    _quiet(rank)
    folder = train(run, plain)
    if rank == 0:
        print(f"run: {folder}", flush=True)
    return folder


def train(run: TrainRun, plain: dict[str, Any] | None = None) -> Path:
    """Train in the run's folder, and return it. ``plain`` are the settings as plain data, which are kept with
    what is learnt; those of ``run`` where it is not given."""
    settings = run.trainer
    plain = plain or without_passwords(plain_of(asdict(run)))
    refuse_secrets(plain)
    if not run.method.learns():
        raise ValueError(
            f"method={name_of(run.method)} trains nothing; use it with 'vgen edit "
            f"method={name_of(run.method)} video=FILE ...'"
        )
    rank = ranks.rank(settings.devices)
    if job_suffix() and settings.world_size > 1:
        raise ValueError(
            f"--multirun runs its jobs in one process, which cannot start the {settings.world_size} "
            "processes of "
            f"trainer.strategy={settings.strategy.value}; start the jobs one by one, or as a Slurm array"
        )
    name = (run.run.name or _own_name(run)) + job_suffix()
    folder = Path(run.run.dir) / name
    with Signals() as signals:
        if rank > 0:
            return _fit(run, plain, folder, OfAnother(), signals)
        with RunLock(folder) as lock:
            return _fit(run, plain, folder, lock, signals)


def _fit(
    run: TrainRun, plain: dict[str, Any], folder: Path, lock: RunLock | OfAnother, signals: Signals
) -> Path:
    """Train in a folder that is this run's own. Where it ends before it began nothing stays of it."""
    resume, fresh = run.run.resume is Resume.AUTO, lock.made_folder
    if lock.is_mine:
        claim(folder, plain, resume)

    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        if lock.is_mine and not fresh:
            save_config(folder, plain)

    try:
        model = image_model_of(run)
        goes_on = resume and bool(steps(folder / "checkpoints"))
        job = Job(
            recipe=run.method,
            model=model,
            beneath=beneath(run, model),
            init=init_of(run, goes_on),
            corpus=run.data,
            optimisation=run.optim,
            settings=run.trainer,
            logger=run.logger,
            samples=run.callbacks,
            folder=folder,
            name=folder.name,
            seed=run.run.seed,
            resume=resume,
            plain=plain,
            begin=begin,
            signals=signals,
            is_lost=lambda: lock.lost,
            start=None if goes_on else start_of(run, model),
        )
        return fit(job)
    except BaseException:
        if fresh and not begun:
            _discard(folder)
        raise


def image_model_of(run: TrainRun) -> ImageModel:
    """What the method stands on; none is opened where it needs none. Raises ValueError where one is named in
    vain."""
    if run.method.on_image_model:
        return run.backbone.open()
    if run.backbone != Backbone():
        raise ValueError(
            f"method={name_of(run.method)} stands on no image model, and backbone.path={run.backbone.path} "
            "names one; leave backbone out"
        )
    return no_image_model()


def _discard(folder: Path) -> None:
    """Empty the folder of a run that ended before it began, unless there is more in it: the name stays free
    for the next try. The lock goes last, and the folder with it."""
    there = {path for path in folder.iterdir() if not path.name.startswith(LOCK)}
    if not {path.name for path in there} <= BEFORE_THE_FIRST_STEP:
        return
    for path in there:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def start_of(run: TrainRun, model: ImageModel) -> dict[str, Tensor] | None:
    """What ``run.init_from`` holds; a resumed run has its own weights and no longer needs it.

    Raises ValueError where it is of another method, of layers with other knobs, of other fields, or holds
    weights of another image model.
    """
    wish = run.run.init_from
    if wish is None:
        return None
    if not run.method.writes().adapter:
        raise ValueError(
            f"run.init_from={wish}: this method trains the image model, which starts from "
            "backbone.path=FOLDER"
        )
    tensors, card = load_adapter(adapter_path(wish, "run.init_from"))
    before = recipe_of(card)
    if type(before) is not type(run.method):
        raise ValueError(
            f"run.init_from={wish} was made by method {card.recipe}, this run's is {name_of(run.method)}; "
            "start from its own"
        )
    theirs, ours = ([insertion.layer for insertion in recipe.insertions()] for recipe in (before, run.method))
    if len(theirs) != len(ours):
        raise ValueError(
            f"run.init_from={wish} has {len(theirs)} kinds of layers, this run {len(ours)}; give the knobs "
            "it was made with"
        )
    differs = {
        f"{knob}={plain_of(value)}"
        for had, has in zip(theirs, ours, strict=True)
        for knob, value in asdict(had).items()
        if knob not in has.free and value != getattr(has, knob, None)
    }
    if differs:
        raise ValueError(
            f"run.init_from={wish} holds layers with {', '.join(sorted(differs))}, this run's have other "
            "values; "
            f"set the same ('vgen show {name_of(run.method)}' says where)"
        )
    path = adapter_path(wish, "run.init_from")
    _refuse_other_base(Layer("", path, tensors, card, before, f"run.init_from={wish}"), run.method, model)
    log.info("starting from %s, trained on image model %s", wish, card.backbone_source)
    return tensors


def _refuse_other_base(start: Layer, recipe: Recipe, model: ImageModel) -> None:
    """Raises ValueError where a start listens to other fields than the recipe, or holds weights of another
    image model."""
    heard, hears = (one.reads() for one in (start.recipe, recipe))
    if heard != hears:
        raise ValueError(
            f"{start.named} listens to {', '.join(heard)}, this run to {', '.join(hears)}; give the knobs "
            "it was "
            "made with"
        )
    start.refuse_misfit(model, model.source, unet_fingerprint(model.unet))


def beneath(run: TrainRun, model: ImageModel) -> list[Beneath]:
    """The adapters of ``stack``, each over its own bases, and the low-rank layers of ``loras``."""
    found = stacked(run.stack, run.loras)
    fingerprint = unet_fingerprint(model.unet) if found else ""
    out = []
    for layer in read_for(model, found):
        layer.refuse_misfit(model, model.source, fingerprint)
        part = Part(layer.slot, layer.recipe, layer.scale)
        out.append(Beneath(part=part, tensors=layer.tensors, said=layer.as_base()))
    return out


def init_of(run: TrainRun, goes_on: bool = False) -> dict[str, Any]:
    """Where learning starts from, for the card; a run that goes on no longer needs it."""
    wish = run.run.init_from
    if wish is None:
        return {}
    if goes_on and not Path(wish).expanduser().exists() and wish not in SHIPPED_FOLDERS:
        return {"file": wish, "sha256": "unknown, it was gone when the run was resumed"}
    path = adapter_path(wish, "run.init_from")
    return {"file": wish, "sha256": file_sha256(path)}


def claim(folder: Path, plain: dict[str, Any], resume: bool) -> None:
    """Make the run's folder and save its resolved configuration; a run that exists is never overwritten, and
    its configuration not before training goes on."""
    config = folder / "config.yaml"
    if config.is_file() and not resume:
        raise ValueError(f"run {folder} exists; continue it with run.resume=auto or choose another run.name")
    if config.is_file():
        before = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(config)))  # written below
        now = json.loads(json.dumps(plain))
        changed = [
            k
            for k in ("method", "backbone", "optim", "stack", "loras")
            if _settled(before, k) != _settled(now, k)
        ]
        if changed:
            raise ValueError(
                f"run {folder} was started with other settings for {', '.join(changed)}; "
                "resume it unchanged (only trainer, data and logger may differ) or choose another run.name"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_config(folder, plain)


def _settled(config: dict[str, Any], section: str) -> Any:
    """A section of a run's configuration, without what older runs have in another place."""
    found = config.get(section) or None
    if section == "method" and isinstance(found, dict):
        return {k: v for k, v in found.items() if k not in RETIRED}
    return found


def save_config(folder: Path, plain: dict[str, Any]) -> None:
    temporary = folder / f".config.{os.getpid()}.tmp"
    temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(plain)))
    os.replace(temporary, folder / "config.yaml")


def _quiet(rank: int) -> None:
    """Our log lines to the terminal, from one of the processes; Lightning's tips and known warnings not."""
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s", force=True
    )
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Shown("%(message)s"))
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=WARNING_MODULES)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    from vgen.app.cli import run

    raise SystemExit(run("train"))
