"""``vgen demo``: the main job end to end on the shipped image model: shards, training, export, clips, scores,
one page."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from vgen.app.config import RunSettings, TrainRun
from vgen.app.demo_steps import LADDER, paced
from vgen.app.evaluate import Evaluated, EvaluateRun, evaluate
from vgen.app.export import Export, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.judging.results import worded
from vgen.app.loading import SHIPPED, TOYBOX, UNTRAINED, Backbone, load_backbone
from vgen.app.train import train_aloud
from vgen.data.clips import Window
from vgen.data.prepare import Prepare, prepare
from vgen.data.sample import Video
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.solvers import Solver
from vgen.methods import usual
from vgen.methods._sampling import SamplingOverrides
from vgen.metrics.kinds.text import AskedText
from vgen.metrics.suite import Suite
from vgen.toybox.sampling import Mix
from vgen.training.corpus import Corpus
from vgen.training.optimisation import Decay, Optimisation, Optimiser
from vgen.training.peaks import resident_peak_gb
from vgen.training.strategies import TrainerSettings

NUM_CLIPS, NUM_FRAMES, STRIDE = 480, 8, 2
PROMPT = "a large red circle that moves right fast on a black background"
ONE_THING = Mix(core=1, many=0, texture=0, motion=0, relation=0, puppet=0, two_things=0)
_KEYS = {"out": "outputs/demo", "steps": str(LADDER[0]), "clips": "24"}
_MARK = ".vgen-demo"
_SHARDS, _TRIAL, _RUN, _EXPORTS, _CLIPS, _EVALUATION = _NAMES = (
    "shards",
    "trial",
    "trained",
    "exports",
    "clips",
    "evaluation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What every stage is asked for; its classes refuse what they cannot do before anything is touched."""

    packing: Prepare
    training: TrainRun
    exports: tuple[Export, ...]
    drawing: GenerateRun
    evaluation: EvaluateRun


def main() -> None:
    given = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    unknown = [a for a in sys.argv[1:] if a.split("=", 1)[0] not in _KEYS or "=" not in a]
    if unknown:
        raise ValueError(f"vgen demo has no {', '.join(unknown)}; it has {', '.join(f'{k}=' for k in _KEYS)}")
    wish = _KEYS | given
    if not wish["out"]:
        raise ValueError(
            f"out names the folder for the report and the clips, got nothing; leave it out for {_KEYS['out']}"
        )
    steps, clips = (_count(key, wish[key]) for key in ("steps", "clips"))
    demo(Path(wish["out"]), steps if "steps" in given else None, clips, Console())


def _count(key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text) or int(text) < 1:
        raise ValueError(
            f"{key} must be a whole number of at least 1, got {text or 'nothing'}; the default is "
            f"{key}={_KEYS[key]}"
        )
    return int(text)


def demo(out: Path, steps: int | None, num_clips: int, console: Console) -> Evaluated:
    """Everything is written below ``out``; what an earlier demo wrote there is replaced, nothing else is
    touched. Without ``steps`` the machine's pace chooses them."""
    plan = _plan(out, LADDER[0] if steps is None else steps, num_clips)
    _check(out)
    began = time.perf_counter()
    backbone = load_backbone(TOYBOX)  # the sentence about a missing model before any work
    del backbone
    _clear(out)

    def stage(number: int, title: str, action: Callable[[], object]) -> object:
        console.print(f"[bold]{number}/5 {title}[/] ({time.perf_counter() - began:.0f} s so far)")
        return action()

    stage(
        1,
        f"preparing {NUM_CLIPS} clips of the miniature world as shards",
        lambda: prepare(plan.packing, lambda *_: None),
    )
    training = plan.training if steps is not None else paced(plan.training, out / _TRIAL, console)
    stage(
        2,
        f"training AnimateDiff motion modules in the frozen image model, {training.trainer.max_steps} steps",
        lambda: train_aloud(training),
    )
    stage(
        3,
        "exporting them in AnimateDiff's and in diffusers' format",
        lambda: Console().print(*map(export, plan.exports)),
    )
    stage(4, "drawing a clip with the shipped motion module", lambda: generate_files(plan.drawing, {}))
    modules = "the untrained, the just-trained and the shipped module"
    found = stage(
        5,
        f"drawing and scoring {num_clips} captions with {modules}",
        lambda: evaluate(plan.evaluation, console),
    )
    assert isinstance(found, Evaluated)
    coherence = {
        name: worded(of["overall"].get("coherence")) for name, of in found.summary["checkpoints"].items()
    }
    shares = ", ".join(f"{name} {share}" for name, share in coherence.items())
    console.print(f"minutes of training hold a clip together, motion takes longer; coherence: {shares}")
    clip = next((out / _CLIPS).glob("*.gif"))
    console.print(
        f"demo: {time.perf_counter() - began:.0f} s, peak memory {resident_peak_gb():.1f} GB\n"
        f"  report: {found.folder / 'report' / 'index.html'}\n  clip:   {clip}"
    )
    return found


def _plan(out: Path, steps: int, num_clips: int) -> _Plan:
    run, exports = out / _RUN, out / _EXPORTS
    sampling = SamplingOverrides(num_frames=NUM_FRAMES, num_steps=12, guidance=5.0, solver=Solver.DPM_PP_2M)
    return _Plan(
        packing=Prepare(
            data=ToyboxSource(num_clips=NUM_CLIPS, seed=101, mix=ONE_THING),
            out=str(out / _SHARDS),
            video=Video("npy"),
        ),
        training=_training(out, steps),
        exports=(
            Export(run=str(run), to="animatediff", out=str(exports / "motion_module.safetensors")),
            Export(run=str(run), to="diffusers", out=str(exports / "motion_adapter")),
        ),
        drawing=GenerateRun(prompt=PROMPT, adapter=SHIPPED, sampling=sampling, fps=6, out=str(out / _CLIPS)),
        evaluation=EvaluateRun(
            adapter=[UNTRAINED, str(run), SHIPPED],
            backbone=TOYBOX,
            suite=_suite(num_clips),
            sampling=sampling,
            selftest=16,
            out=str(out / _EVALUATION),
        ),
    )


def _suite(num_clips: int) -> Suite:
    return Suite(
        iid=num_clips,
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=NUM_FRAMES,
        stride_ticks=STRIDE,
        text=AskedText(two_things=ONE_THING.two_things),
    )


def _training(out: Path, steps: int) -> TrainRun:
    return TrainRun(
        method=usual(),
        backbone=Backbone(),
        run=RunSettings(name=_RUN, dir=str(out), seed=7),
        data=Corpus(
            path=str(out / _SHARDS),
            window=Window(num_frames=NUM_FRAMES, stride_frames=STRIDE),
            batch_size=4,
            val_clips=16,
            cache=True,
        ),
        optim=Optimisation(
            kind=Optimiser.MUON,
            lr=1e-3,
            betas=[0.9, 0.99],
            warmup_steps=20,
            decay=Decay.COSINE,
            ema_decay=0.98,
        ),
        trainer=TrainerSettings(
            max_steps=steps, val_every_steps=max(1, steps // 2), checkpoint_every_steps=steps
        ),
    )


def _check(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        what = "link" if out.is_symlink() else "file"
        raise ValueError(
            f"out={out} is a {what} and the demo writes a folder; choose another place, nothing is "
            "overwritten"
        )
    if out.exists() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise ValueError(
            f"out={out} exists and was not made by vgen demo; choose another folder, nothing is overwritten"
        )


def _clear(out: Path) -> None:
    """The mark stays while its neighbours go, so that a demo that was killed here can be run again."""
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    for path in (out / name for name in _NAMES):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
