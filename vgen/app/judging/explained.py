"""What a report says in words: its numbers explained, and what was found in one sentence."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vgen.app.judging.results import Result, rank
from vgen.metrics.statistics import paired_difference

EXPLAINED = {
    "exact": "everything that the caption says is true of the clip",
    "exact_without_speed": "the same, speed left out",
    "exact_image": "everything that the caption says of a still is true",
    "colour": "things have the colour that was asked",
    "shape": "things have the shape that was asked",
    "size": "things have the size that was asked",
    "motion_moving": "things that should move go where the caption says",
    "speed": "things that move are as fast as the caption says",
    "count": "frames that show as many things as the caption",
    "ground": "the background is the one that was asked",
    "tc": "temporal consistency: things stay what and where they are, in clips that move as asked",
    "coherence": "neighbouring frames show the same things; a frozen clip does too",
    "bgflick": "how far the ground flickers from frame to frame, of 255; 0 is right",
    "edit": "harmonic mean of four: edit, rest, path and ground",
    "edit_strict": "the same, with no frame that lacks the edit",
    "edit_acc": "the edit that was asked is there, share of frames",
    "edit_acc_all": "the edit is there in every frame",
    "keep_acc": "what was to stay is there",
    "warp": "how far a frame is from the next one, brought back along the true motion; 0 is steady",
    "traj": "things move as in the source",
    "bg": "the ground is untouched, against what the decoder alone keeps of it",
    "psnr_bg": "the ground against the source's, in dB",
    "psnr_codec": "the same after encoder and decoder alone, in dB",
    "oracle_psnr": "the clip against the exact edit, in dB",
    "j": "overlap of what is seen with the masks of the control",
    "j_norm": "the same, of what the oracle reads in the truth",
    "ctrl_gain": "fidelity to the control that was given less that to another clip's",
    "held": "given frames are met and things go their way between them: harmonic mean of both",
    "met": "the given frames, 0 at 15 dB and 1 at what encoder and decoder alone keep of them",
    "between": "things are on their path in the frames that were not given",
    "psnr_given": "the given frames against what was given, in dB",
    "filmed": "the camera moves as asked, in clips that show what the caption says",
    "follows": "how near the camera's motion is to the one that is asked",
    "caption_holds": "colours, shapes, count and ground are those of the caption",
    "motion_held": "things go where the caption says, once the camera that is asked is taken out",
    "pan": "the camera to the right, in pixels a frame",
    "tilt": "the camera downwards, in pixels a frame",
    "zoom": "what the camera sees grows, in percent a frame",
    "roll": "the camera turns clockwise, in degrees a frame",
    "pck": "joints within .05 of the canvas of where the control has them",
    "pck_moving": "the same over joints that move",
    "lag": "frames by which the clip trails its control; 0 is right",
    "cflip": "frames in another colour, or other clothes, than usual",
    "clothes": "the figure wears the colours that were asked",
    "id_exact": "all sixteen bits of the subject",
    "bitacc": "share of the subject's bits; .5 is chance",
    "id_cons": "the subject is the same from frame to frame",
    "prompt": "the rest of the prompt is obeyed",
    "leak": "the subject is drawn where nobody asked for it; 0 is right",
}
"""By number, for whoever meets a column's name for the first time."""


def legend(columns: Sequence[str], short: dict[str, str]) -> list[tuple[str, str]]:
    """Headings of columns, and what they say; a name that explains itself stands for itself."""
    return [(short.get(name, name), EXPLAINED[name]) for name in columns if name in EXPLAINED]


def finding(results: Sequence[Result], words: dict[str, str]) -> str:
    """The first result against the next best, in the first headline, with its interval; of one result what
    it reaches. ``words`` are the headlines' names. Nothing where a suite has no headline."""
    if not results[0].headlines:
        return ""
    key = results[0].headlines[0]
    name = words.get(key, key)
    best, *others = rank(results)
    if not others:
        return _alone(best, key, name)
    ids = [i for i in best.rows if i in others[0].rows]
    ours, theirs = ([r.rows[i][key] for i in ids] for r in (best, others[0]))
    d = paired_difference(ours, theirs, [best.rows[i]["group"] for i in ids])
    if d.mean is None:
        return f"{best.label} and {others[0].label} have no clip in common on which {name} can be read"
    if d.mean == 0:
        return f"{best.label} and {others[0].label} are equal in {name}, n = {d.num}"
    verb = "beats" if d.mean > 0 else "is behind"
    said = f"{best.label} {verb} {others[0].label} by {abs(d.mean):.2f} in {name}"
    return f"{said}, n = {d.num}: {_sure(d.low, d.high)}"


def _sure(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "too few clips to tell"
    bounds = f"95 % interval {low:+.2f} to {high:+.2f}"
    return f"significant ({bounds})" if low > 0 or high < 0 else f"not significant ({bounds})"


def _alone(result: Result, key: str, name: str) -> str:
    number, (floor, trick) = result.number(key), result.summary["floors"][key][:2]
    if number["mean"] is None:
        return f"{result.label} has no clip on which {name} can be read"
    beside = "" if floor is None else f"; the best trick, {trick}, reaches {floor:.2f}"
    return f"{result.label} reaches {number['mean']:.2f} in {name}, n = {number['num']}{beside}"


def origin(folder: Path) -> dict[str, Any]:
    """Which run's report it is, when it was written, and by which command, where it was one."""
    program, *arguments = sys.argv
    command = " ".join([program, *map(shlex.quote, arguments)]) if program.startswith("vgen ") else ""
    own = folder.resolve().parent if folder.name == "report" else folder.resolve()
    return {"run": own.name, "date": time.strftime("%Y-%m-%d %H:%M"), "command": command}
