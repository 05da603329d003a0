"""Editing methods on the toybox's edit suite (O4): EDIT and its parts, against a copy of the source and against editing frame by frame.

    python benchmarks/toybox_edits.py n=64 methods=copy,ddim,p2p,fatezero frames=8 steps=20 guidance=3
    python benchmarks/toybox_edits.py n=8 methods=p2p,tav steps_tuned=200           # tunes on every clip first

``copy`` hands the source back, ``ddim`` is inversion and another prompt frame by frame, ``p2p`` Prompt-to-Prompt frame by frame (fast
mode), ``fatezero`` FateZero with the middle frame, ``first`` the same edit with the keys of the first frame everywhere, ``tav``
Tune-A-Video. Each is one ``vgen evaluate suite=edit method=...`` into a folder of ``out`` (what is there is not drawn again), and together
they are one leaderboard and report. Prints one JSON line: means with 95 % bootstrap intervals, and paired differences to the first method.
"""
from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from vgen.app.compare import compare
from vgen.app.evaluate import evaluate
from vgen.app.evaluation import EvaluateRun
from vgen.app.leaderboard import aggregate
from vgen.app.loading import TOYBOX
from vgen.app.results import load, worded
from vgen.app.suite_edits import Copy, Tune
from vgen.attention.keys import Frame
from vgen.diffusion.inversion import NullText
from vgen.diffusion.step_window import StepWindow
from vgen.methods import Recipe
from vgen.methods.fatezero import FateZero
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo
from vgen.metrics.suite import Kind, Suite

SHOWN = ("edit", "edit_strict", "edit_acc", "keep_acc", "traj", "bg", "oracle_psnr")


def recipes(options: dict[str, str]) -> dict[str, Recipe]:
    both = {"num_steps": int(options.get("steps", 20)), "guidance": float(options.get("guidance", 3))}
    cross, own = (StepWindow(end=float(options.get(name, default))) for name, default in (("cross", 0.8), ("self", 0.5)))
    never, fast = StepWindow(end=0.0), NullText(inner_steps=0)
    return {
        "copy": Copy(),
        "ddim": PromptToPrompt(**both, cross=never, self_attention=never, null_text=fast),
        "p2p": PromptToPrompt(**both, cross=cross, self_attention=own, null_text=fast),
        "fatezero": FateZero(**both, cross=cross, self_attention=own, reconstruct=False),
        "first": FateZero(**both, cross=cross, self_attention=own, frames=[Frame.FIRST], from_level=0, reconstruct=False),
        "tav": TuneAVideo(**both, reconstruct=False),
    }


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    num, frames = int(options.get("n", 64)), int(options.get("frames", 8))
    suite = Suite(kind=Kind.EDIT, iid=num, pair=0, triple=0, extrapolation=0, paraphrase=0, num_frames=frames, stride_ticks=2)
    console, out = Console(stderr=True), Path(options.get("out", "outputs/toybox_edits"))
    names = options.get("methods", "p2p,copy,ddim,fatezero").split(",")
    for name in names:
        taught = int(options.get("steps_tuned", 200)) if name == "tav" else 0
        run = EvaluateRun(
            suite=suite, suite_name="edit", method=recipes(options)[name], method_name=name, backbone=options.get("backbone", TOYBOX),
            tune=Tune(num_steps=taught, lr=float(options.get("lr", 3e-4))), selftest=min(num, 24), out=str(out / name),
        )
        evaluate(run, console)
    aggregate(out, console)
    results = load(*(out / name for name in names))
    shown = [key for key in (*results[0].headlines, *SHOWN) if key in results[0].numbers["overall"]]
    against = compare(results, shown)["against"] if len(results) > 1 else {}
    print(json.dumps({
        "n": num, "options": options,
        "methods": {r.name: {k: worded(r.numbers["overall"][k], ".3f") for k in dict.fromkeys(shown)} for r in results},
        "cost": {r.name: r.numbers["cost"] for r in results},
        f"minus {results[0].name}": {
            name: {k: worded(of[k]["all"]["difference"], "+.3f") for k in results[0].headlines} for name, of in against.items()
        },
    }))


if __name__ == "__main__":
    main()
