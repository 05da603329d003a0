"""``vgen demo``: the main job end to end on the shipped image model: shards, training, export, clips, scores, one page."""
from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from vgen.app.config import RunSettings, TrainRun
from vgen.app.evaluate import Evaluated, EvaluateRun, evaluate
from vgen.app.export import Export, Format, export
from vgen.app.generate import GenerateRun, generate_files
from vgen.app.loading import SHIPPED, TOYBOX, UNTRAINED, Backbone, load_backbone
from vgen.app.results import worded
from vgen.app.train import train
from vgen.data.clips import Window
from vgen.data.prepare import Prepare, prepare
from vgen.data.sample import Video
from vgen.data.toybox import ToyboxSource
from vgen.diffusion.solvers import Solver
from vgen.formats.adapter import plain
from vgen.methods._sampling import Sampling
from vgen.methods.animatediff import AnimateDiff
from vgen.metrics.suite import Suite
from vgen.toybox.sampling import Mix
from vgen.training.loader import Corpus
from vgen.training.optimisation import Decay, Optimisation, Optimiser
from vgen.training.strategies import TrainerSettings

NUM_CLIPS, NUM_FRAMES, STRIDE, STEPS = 480, 8, 2, 400
PROMPT = "a large red circle that moves right fast on a black background"
ONE_THING = Mix(core=1, many=0, texture=0, motion=0, relation=0, puppet=0, two_things=0)
_KEYS = {"out": "outputs/demo", "steps": str(STEPS), "clips": "24"}


def main() -> None:
    given = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    unknown = [a for a in sys.argv[1:] if a.split("=", 1)[0] not in _KEYS or "=" not in a]
    if unknown:
        raise ValueError(f"vgen demo has no {', '.join(unknown)}; it has {', '.join(f'{k}=' for k in _KEYS)}")
    wish = _KEYS | given
    demo(Path(wish["out"]), int(wish["steps"]), int(wish["clips"]), Console())


def demo(out: Path, steps: int, num_clips: int, console: Console) -> Evaluated:
    """Everything is written below ``out``; an earlier demo there is replaced, nothing else is touched."""
    _clear(out)
    began = time.perf_counter()
    backbone = load_backbone(TOYBOX)  # the sentence about a missing model before any work
    del backbone
    shards, run = out / "shards", out / "trained"

    def stage(number: int, title: str, action: Callable[[], object]) -> object:
        console.print(f"[bold]{number}/5 {title}[/] ({time.perf_counter() - began:.0f} s so far)")
        return action()

    source = ToyboxSource(num_clips=NUM_CLIPS, seed=101, mix=ONE_THING)
    packing = Prepare(data=source, out=str(shards), video=Video("npy"))
    stage(1, f"preparing {NUM_CLIPS} clips of the miniature world as shards", lambda: prepare(packing, lambda *_: None))
    stage(2, f"training AnimateDiff motion modules in the frozen image model, {steps} steps", lambda: _train(shards, run, steps))
    stage(3, "exporting them in AnimateDiff's and in diffusers' format", lambda: _export(run, out))
    shipped_sampling = Sampling(num_frames=NUM_FRAMES, num_steps=12, guidance=5.0, solver=Solver.DPM_PP_2M)
    drawing = GenerateRun(prompt=PROMPT, adapter=SHIPPED, sampling=shipped_sampling, fps=6, out=str(out / "clips"))
    stage(4, "drawing a clip with the shipped motion module", lambda: generate_files(drawing, {}))
    wish = EvaluateRun(
        adapter=[UNTRAINED, str(run), SHIPPED], backbone=TOYBOX,
        suite=Suite(
            iid=num_clips, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=NUM_FRAMES, stride_ticks=STRIDE,
            two_things=ONE_THING.two_things,
        ),
        sampler=shipped_sampling, selftest=16, out=str(out / "evaluation"),
    )
    modules = "the untrained, the just-trained and the shipped module"
    found = stage(5, f"drawing and scoring {num_clips} captions with {modules}", lambda: evaluate(wish, console))
    assert isinstance(found, Evaluated)
    coherence = {name: worded(of["overall"].get("coherence")) for name, of in found.summary["checkpoints"].items()}
    shares = ", ".join(f"{name} {share}" for name, share in coherence.items())
    console.print(f"minutes of training hold a clip together, motion takes longer; coherence: {shares}")
    clip = next((out / "clips").glob("*.gif"))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"demo: {time.perf_counter() - began:.0f} s, peak memory {memory:.1f} GB\n"
        f"  report: {found.folder / 'report' / 'index.html'}\n  clip:   {clip}"
    )
    return found


def _clear(out: Path) -> None:
    mark = out / ".vgen-demo"
    if out.exists() and any(out.iterdir()) and not mark.is_file():
        raise ValueError(f"out={out} exists and was not made by vgen demo; choose another folder, nothing is overwritten")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    mark.touch()


def _train(shards: Path, run: Path, steps: int) -> None:
    wish = TrainRun(
        method=AnimateDiff(), backbone=Backbone(), run=RunSettings(name=run.name, dir=str(run.parent), seed=7),
        data=Corpus(path=str(shards), window=Window(num_frames=NUM_FRAMES, stride_frames=STRIDE), batch_size=4, val_clips=16, cache=True),
        optim=Optimisation(kind=Optimiser.MUON, lr=1e-3, betas=[0.9, 0.99], warmup_steps=20, decay=Decay.COSINE, ema_decay=0.98),
        trainer=TrainerSettings(max_steps=steps, val_every_steps=max(1, steps // 2), checkpoint_every_steps=steps),
    )
    train(wish, plain({"method": "animatediff", "note": "vgen demo", "steps": steps}))


def _export(run: Path, out: Path) -> None:
    console = Console()
    console.print(export(Export(run=str(run), to=Format.ANIMATEDIFF, out=str(out / "exports" / "motion_module.safetensors"))))
    console.print(export(Export(run=str(run), to=Format.DIFFUSERS, out=str(out / "exports" / "motion_adapter"))))
