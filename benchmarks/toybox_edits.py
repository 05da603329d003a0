"""Editing methods on the toybox's edit suite (O4): EDIT with its four parts, and TC, by method and kind of
edit, against per-frame edits.

    python benchmarks/toybox_edits.py n=64                                   # every method; Tune-A-Video is
    taught 500 steps on every clip
    python benchmarks/toybox_edits.py n=8 methods=p2p,tav steps_tuned=20 steps=4 out=outputs/try

``p2p`` is Prompt-to-Prompt frame by frame, what all others are compared with clip by clip (it always runs;
``null_text=10`` gives it the paper's inner steps, 0 is its fast mode), ``copy`` hands the source back,
``ddim`` is inversion and another prompt frame by frame, ``fatezero`` FateZero with the middle frame,
``first`` the same with the keys of the first frame at every level, ``self_middle`` with the frame's own and
the middle one's (the paper's text) at every level, ``tav`` Tune-A-Video, ``fatezero_tav`` FateZero on the
checkpoint that Tune-A-Video makes of each clip, with that one's frames (its way to edit shapes).
``masactrl`` is MasaCtrl frame by frame, which reads its source from .08 of the steps on (4 of 50, as
published), ``unread`` the same with nothing read (its control),
``vid2vid_zero`` vid2vid-zero, ``video_p2p`` Video-P2P in its fast mode.
``words=open`` leaves size, speed and a ground that stays out of the prompts, so that they are the clip's to
keep. Each is one ``vgen evaluate suite=edit method=...`` into a folder of ``out``: a killed run goes on with
the next clip, a finished method is only scored again, and other settings in the same folder are refused.
Prints tables in Markdown: means with 95 % bootstrap intervals, and differences from ``p2p`` over the same
clips, bold where the interval leaves out 0 (of 8 clips or more: fewer bound nothing). ``out`` gets them as
``edits.json``, a leaderboard and a report.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from vgen.app.compare import compare
from vgen.app.evaluate import evaluate
from vgen.app.judging.evaluation import EvaluateRun
from vgen.app.judging.results import Result, load, worded
from vgen.app.judging.suite_edits import Copy, Tune
from vgen.app.loading import TOYBOX
from vgen.app.sweep import aggregate
from vgen.attention.keys import Frame
from vgen.attention.mutual import Mutual
from vgen.data.files import write_json
from vgen.diffusion.guidance import Cfg
from vgen.diffusion.inversion import NullText
from vgen.diffusion.step_window import StepWindow
from vgen.methods import Recipe
from vgen.methods._edit_session import EditSession
from vgen.methods._editing import Edited
from vgen.methods._sampling import SamplingOverrides
from vgen.methods.fatezero import FateZero
from vgen.methods.masactrl import MasaCtrl
from vgen.methods.prompt_to_prompt import PromptToPrompt
from vgen.methods.tune_a_video import TuneAVideo
from vgen.methods.vid2vid_zero import Vid2VidZero
from vgen.methods.video_p2p import VideoP2P
from vgen.metrics.kinds.edit import AskedEdits
from vgen.metrics.statistics import Interval, interval, paired_difference
from vgen.metrics.suite import Kind, Suite
from vgen.spec import spec

BASE = "p2p"
SHOWN = ("edit", "edit_acc", "keep_acc", "traj", "bg", "tc", "tc_edited")
FEWEST = 8
WORDS = {"told": 0.0, "open": 1.0}
TAUGHT_BY = {"tav": "", "fatezero_tav": "tune_a_video", "video_p2p": ""}
"""Methods for which each clip is tuned first, and what learns it; empty: they themselves."""
DEFAULTS = {
    "n": "64",
    "frames": "8",
    "steps": "20",
    "guidance": "3",
    "cross": "0.8",
    "self": "0.5",
    "null_text": "0",
    "steps_tuned": "500",
    "lr": "3e-4",
    "words": "told",
    "methods": "p2p,copy,ddim,fatezero,first,self_middle,tav,fatezero_tav,"
    "masactrl,unread,vid2vid_zero,video_p2p",
    "backbone": TOYBOX,
    "out": "outputs/toybox_edits",
}


@spec
class Unread(MasaCtrl):
    """MasaCtrl's inverted noise and prompt, with nothing read from the source."""

    def edit(self, session: EditSession) -> Edited:
        trajectory = session.invert(self.inversion_prompt)
        said = session.encoded(session.wish.target)
        guidance = Cfg(scale=session.sampling.guidance)
        return Edited(session.sample(trajectory.start, lambda _: said, guidance))


def options_of(words: Sequence[str]) -> dict[str, str]:
    given = dict(word.partition("=")[::2] for word in words)
    options = DEFAULTS | given
    names = list(dict.fromkeys([BASE, *options["methods"].split(",")]))
    if options["words"] not in WORDS:
        raise ValueError(f"words={options['words']}: give one of {', '.join(WORDS)}")
    unknown = [*(given.keys() - DEFAULTS.keys()), *(name for name in names if name not in recipes(DEFAULTS))]
    if unknown:
        raise ValueError(
            f"unknown: {' '.join(unknown)}; keys are {', '.join(DEFAULTS)}, methods "
            f"{', '.join(recipes(DEFAULTS))}"
        )
    return options | {"methods": ",".join(names)}


def recipes(options: dict[str, str]) -> dict[str, Recipe]:
    cross, own, never = (StepWindow(end=float(end)) for end in (options["cross"], options["self"], 0))
    maps = {"cross": cross, "self_attention": own}
    null_text, fast = NullText(inner_steps=int(options["null_text"])), NullText(inner_steps=0)
    return {
        "p2p": PromptToPrompt(**maps, null_text=null_text),
        "copy": Copy(),
        "ddim": PromptToPrompt(cross=never, self_attention=never, null_text=fast),
        "fatezero": FateZero(**maps, reconstruct=False),
        "first": FateZero(**maps, frames=[Frame.FIRST], from_level=0, reconstruct=False),
        "self_middle": FateZero(**maps, frames=[Frame.SELF, Frame.MIDDLE], from_level=0, reconstruct=False),
        "tav": TuneAVideo(reconstruct=False),
        "fatezero_tav": FateZero(**maps, frames=[], reconstruct=False),
        "masactrl": MasaCtrl(mutual=Mutual(window=StepWindow(start=0.08))),
        "unread": Unread(),
        "vid2vid_zero": Vid2VidZero(),
        "video_p2p": VideoP2P(null_text=fast),
    }


def tune_of(name: str, options: dict[str, str]) -> Tune:
    if name not in TAUGHT_BY:
        return Tune(lr=float(options["lr"]))
    return Tune(num_steps=int(options["steps_tuned"]), lr=float(options["lr"]), method=TAUGHT_BY[name])


def evaluated(name: str, options: dict[str, str], console: Console) -> Path:
    num, out = int(options["n"]), Path(options["out"]) / name
    suite = Suite(
        kind=Kind.EDIT,
        iid=num,
        pair=0,
        triple=0,
        extrapolation=0,
        paraphrase=0,
        num_frames=int(options["frames"]),
        stride_ticks=2,
        edit=AskedEdits(open_share=WORDS[options["words"]]),
    )
    evaluate(
        EvaluateRun(
            suite=suite,
            suite_name="edit",
            method=recipes(options)[name],
            method_name=name,
            backbone=options["backbone"],
            tune=tune_of(name, options),
            sampling=SamplingOverrides(num_steps=int(options["steps"]), guidance=float(options["guidance"])),
            selftest=min(num, 24),
            out=str(out),
        ),
        console,
    )
    return out


def kinds_of(result: Result) -> dict[str, list[str]]:
    """Clips by the kind of their edit, which their names end with."""
    kinds = dict.fromkeys(name.rsplit("-", 1)[-1] for name in result.rows)
    return {"all": list(result.rows)} | {
        kind: [name for name in result.rows if name.endswith(f"-{kind}")] for kind in kinds
    }


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """By kind and method: means, and differences from the first result on the same clips."""

    def values(result: Result, key: str, clips: Sequence[str]) -> list[float | None]:
        return [result.rows[clip][key] for clip in clips]

    def one(result: Result, clips: Sequence[str]) -> dict[str, dict[str, Interval]]:
        base = results[0]
        return {
            "mean": {key: interval(values(result, key, clips)) for key in SHOWN},
            "difference": {
                key: paired_difference(values(result, key, clips), values(base, key, clips)) for key in SHOWN
            },
        }

    return {kind: {r.name: one(r, clips) for r in results} for kind, clips in kinds_of(results[0]).items()}


def markdown(found: dict[str, Any], what: str) -> Iterator[str]:
    for kind, methods in found.items():
        num = methods[BASE]["mean"]["edit"].num
        yield f"\n{kind}, n = {num}: {'mean' if what == 'mean' else f'difference from {BASE}'}\n"
        yield f"| method | {' | '.join(SHOWN)} |"
        yield "|---" * (1 + len(SHOWN)) + "|"
        for name, of in methods.items():
            if what == "mean" or name != BASE:
                yield f"| {name} | " + " | ".join(_cell(of[what][key], what) for key in SHOWN) + " |"


def _cell(x: Interval, what: str) -> str:
    text = worded(asdict(x), ".2f" if what == "mean" else "+.2f")
    sure = what != "mean" and x.num >= FEWEST and (x.low > 0 or x.high < 0)
    return f"**{text}**" if sure else text


def main() -> None:
    options = options_of(sys.argv[1:])
    console, out = Console(stderr=True), Path(options["out"])
    folders = [evaluated(name, options, console) for name in options["methods"].split(",")]
    results = load(*folders)
    if len(results) > 1:
        compare(results)  # refuses results that are no pair
    found = figures(results)
    aggregate(out, console)
    plain = {
        kind: {n: {w: {k: asdict(x) for k, x in of[w].items()} for w in of} for n, of in ms.items()}
        for kind, ms in found.items()
    }
    write_json(
        out / "edits.json",
        {"options": options, "cost": {r.name: r.numbers["cost"] for r in results}, "figures": plain},
    )
    print("\n".join(line for what in ("mean", "difference") for line in markdown(found, what)))


if __name__ == "__main__":
    main()
