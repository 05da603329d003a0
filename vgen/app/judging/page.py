"""The report: one folder that opens by double click and asks no network for anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vgen.app.judging.charts import PALETTE, PARETO_PX, bars_px
from vgen.app.judging.clip_store import ClipStore
from vgen.app.judging.explained import EXPLAINED, finding, legend, origin
from vgen.app.judging.leaderboard import board
from vgen.app.judging.learned import side_by_side
from vgen.app.judging.media import Media
from vgen.app.judging.overlay import Seen, read_seen
from vgen.app.judging.results import Result, rank
from vgen.app.judging.scorer import overlay_path
from vgen.app.templates import environment
from vgen.data.files import write_whole
from vgen.metrics.metric import Numbers
from vgen.metrics.task import Task
from vgen.metrics.text_accuracy import FEWEST_RIGHT_COUNTS
from vgen.spec import spec

CHIPS = (
    *(
        "colour",
        "shape",
        "size",
        "motion",
        "speed",
        "count",
        "ground",
        "coherence",
        "edit_acc_all",
        "keep_acc",
        "id_exact",
        "prompt",
    ),
    "clothes",
)
COLUMNS = (
    *(
        "exact",
        "exact_without_speed",
        "exact_image",
        "colour",
        "shape",
        "size",
        "motion_moving",
        "speed",
        "count",
        "ground",
        "tc",
        "coherence",
        "bgflick",
    ),
    *(
        "edit",
        "edit_strict",
        "edit_acc",
        "edit_acc_all",
        "keep_acc",
        "traj",
        "bg",
        "psnr_bg",
        "psnr_codec",
        "oracle_psnr",
        "j",
        "j_norm",
        "ctrl_gain",
        "pck",
        "pck_moving",
        "clothes",
    ),
    *("held", "met", "between", "psnr_given"),
    *("filmed", "follows", "caption_holds", "motion_held", "pan", "tilt", "zoom", "roll"),
    *("id_exact", "bitacc", "id_cons", "prompt", "leak"),
)
TITLES = {
    "exact": ("EXACT", "everything the caption says is true of the clip"),
    "motion_moving": ("Motion", "things that should move go where the caption says"),
    "coherence": (
        "Coherence",
        "neighbouring frames show the same things; a frozen clip does too, so read it beside motion",
    ),
    "exact_image": ("EXACT", "everything the caption says of a still is true"),
    "tc": (
        "Consistency",
        "things stay what and where they are, in clips that move as asked: a frozen clip earns nothing",
    ),
    "edit": (
        "EDIT",
        "harmonic mean of four: the edit is there, all else is kept, things move as before, the ground is "
        "untouched",
    ),
    "edit_strict": ("EDIT, every frame", "the same, with no frame that lacks the edit"),
    "tc_edited": ("Consistency", "things stay what and where they are, in clips that show the edit"),
    "j_norm": ("Mask", "overlap with the masks of the control, 1 is what the oracle reads in the truth"),
    "ctrl_gain": ("Control gain", "fidelity to the control it was given less that to another clip's"),
    "held": ("Held", "given frames are met, and things go their way between them: harmonic mean of both"),
    "filmed": ("Filmed", "the camera moves as asked, in clips that show what the caption says"),
    "pck": ("PCK", "joints within .05 of the canvas of where the control has them"),
    "pck_moving": ("PCK of what moves", "the same over joints that move, which no frozen clip earns"),
    "subject": ("Subject", "who it is and what the prompt asks for, both"),
    "likeness": ("Likeness", "the subject's bits above chance, where the prompt is obeyed"),
    "pair": ("Minimal pairs", "both of two clips are exact whose captions differ in one word"),
    "energy": (
        "Energy",
        "how far a caption's clips are from the world's, spread too little or too much: 0 is right, unbiased",
    ),
    "vendi_ratio": (
        "Modes",
        "effective number of different clips of a caption over what the world has: 1 is right",
    ),
    "dup": ("Copies", "clips of a caption that are another one again: 0 is right"),
    "set_energy": (
        "Set distance",
        "energy distance of all clips to the world's: 0 is right, unbiased; whiskers over noises",
    ),
    "mem": (
        "Made, not recalled",
        "distance to the nearest training scene over that of other clips of the world: 1 is right",
    ),
    "id_exact": ("Identity", "all sixteen bits of the subject"),
}
SHORT = {
    "bgflick": "flicker /255",
    "exact_without_speed": "w/o speed",
    "motion_moving": "motion",
    "exact_image": "exact still",
}
WORDS = {
    "edit_acc_all": "edited",
    "keep_acc": "rest kept",
    "id_exact": "identity",
}  # on chips, where a number's name is no word
_WHOLE = ("edit_strict", "j_norm", "held", "filmed", "pck", "subject", "id_exact", "exact", "exact_image")
_STEADY = 0.9  # coherence below this earns a red chip


@spec
class PageSettings:
    """``max_clips`` tasks go into the gallery: a fixed probe set, then the worst; ``max_rows`` into the table
    in W&B. ``fps`` is that of a clip at stride 1. Clips are encoded at ``least_px`` or more, so that colour
    keeps its resolution."""

    max_clips: int = 512
    max_rows: int = 128
    fps: float = 12.0
    least_px: int = 128

    def __post_init__(self) -> None:
        if self.max_clips < 0 or self.max_rows < 1 or self.fps <= 0 or self.least_px < 1:
            raise ValueError(
                "page needs max_clips >= 0, max_rows >= 1, fps > 0 and least_px >= 1, "
                f"got {self.max_clips}, {self.max_rows}, {self.fps} and {self.least_px}"
            )


def clip_fps(settings: PageSettings, summary: dict[str, Any]) -> float:
    return max(2.0, settings.fps / summary["rule"].get("stride_ticks", 1))


Gallery = tuple[list[dict[str, Any]], dict[str, list[Seen]]]
"""Clips for the page, and what the oracle saw in each, by task; nothing where it was not asked."""


def write_report(
    folder: Path,
    results: Sequence[Result],
    settings: PageSettings,
    console: Console | None = None,
    gallery: Gallery | None = None,
) -> Path:
    """``folder/index.html`` and what it shows, for results that may be compared. An earlier report there is
    replaced. ``gallery`` stands for the clips of tasks, where there are none."""
    from plotly.offline import get_plotlyjs

    from vgen.app.judging.charts import charts

    folder.mkdir(parents=True, exist_ok=True)
    first = results[0].summary
    fps = clip_fps(settings, first)
    clips, overlay = gallery or _gallery(folder, results, settings, fps, console)
    data = {
        "entries": [r.label for r in results],
        "chips": [k for k in CHIPS if k in next(iter(results[0].rows.values()))],
        "words": WORDS,
        "oracle": bool(overlay),
        "clips": clips,
        "fps": fps,
        "frames": first["num_frames"],
        "charts": charts(results),
    }
    write_whole(folder / "data.js", f"window.REPORT = {_script(data)};\n".encode())
    write_whole(folder / "overlay.js", f"window.OVERLAY = {_script(overlay)};\n".encode())
    write_whole(folder / "plotly.min.js", get_plotlyjs().encode())
    html = (
        environment("vgen.app.judging")
        .get_template("report.html")
        .render(_named(folder, results, fps, len(clips), data["chips"]))
    )
    write_whole(folder / "index.html", html.encode())
    return folder / "index.html"


def _named(
    folder: Path, results: Sequence[Result], fps: float, num_shown: int, chips: Sequence[str]
) -> dict[str, Any]:
    """What the template speaks of."""
    first = results[0].summary
    keys = [*first["headlines"], *results[0].set_headlines]
    return {
        "results": results,
        "ranked": rank(results),
        "first": first,
        "fps": fps,
        "titles": {k: TITLES.get(k, (k, "")) for k in keys},
        "finding": finding(results, {k: TITLES[k][0] for k in keys if k in TITLES}),
        "origin": origin(folder),
        "explained": EXPLAINED,
        "board_keys": keys,
        "short": SHORT,
        "legend": legend(_columns(results), SHORT),
        "has_cost": any(cost is not None for r in results for cost in r.numbers["cost"].values()),
        "columns": _columns(results),
        "buckets": list(results[0].numbers["buckets"]),
        "things": [
            n
            for n in results[0].numbers.get("things", {})
            if all(n in r.numbers.get("things", {}) for r in results)
        ],
        "size": first["size_px"]
        if isinstance(first["size_px"], int)
        else "×".join(map(str, reversed(first["size_px"]))),
        "chips": {k: WORDS.get(k, k) for k in chips},
        "colours": {r.label: PALETTE[i % len(PALETTE)] for i, r in enumerate(results)},
        "board": board(results),
        "learned": side_by_side(results),
        "bars_px": bars_px(len(results)),
        "pareto_px": PARETO_PX,
        "links": {r.label: _link(folder, r) for r in results},
        "num_shown": num_shown,
        "manifests": [
            {"label": r.label, "text": json.dumps(_manifest(r), indent=1, ensure_ascii=False)}
            for r in results
        ],
    }


def _columns(results: Sequence[Result]) -> list[str]:
    """Numbers that stand in tables, the headlines first."""
    wanted = dict.fromkeys([*results[0].headlines, *COLUMNS])
    return [name for name in wanted if name in results[0].numbers["overall"]]


def _script(value: Any) -> str:
    """JSON that may stand in a script: without the sign that begins its end, or a comment that hides the
    end."""
    told = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return told.replace("<", "\\u003c")


def _link(folder: Path, result: Result) -> str | None:
    """The way to a result's own report, where this is that of a whole sweep."""
    own = result.folder / "report"
    return None if own.resolve() == folder.resolve() else os.path.relpath(own / "index.html", folder)


def _manifest(result: Result) -> dict[str, Any]:
    kept = (
        "vgen",
        "suite_name",
        "suite",
        "sampler",
        "num_clips",
        "num_frames",
        "size_px",
        "corpus",
        "metrics",
    )
    own = {
        **result.numbers["identity"],
        **result.numbers["cost"],
        "learned": {k: v["manifest"] for k, v in result.numbers["learned"].items()},
    }
    return {"checkpoint": result.name, **own, **{k: result.summary[k] for k in kept if k in result.summary}}


def _gallery(
    folder: Path, results: Sequence[Result], settings: PageSettings, fps: float, console: Console | None
) -> Gallery:
    """Their files are written."""
    todo = {task.id: task for task in results[0].tasks()}
    shown = gallery_order([[r.rows[i] for r in results] for i in results[0].rows], settings.max_clips)
    media = Media(folder / "clips", fps, settings.least_px)
    (folder / "seen").mkdir(exist_ok=True)
    clips: list[dict[str, Any]] = []
    overlay: dict[str, list[Seen]] = {}
    for group in shown:
        task = todo[group[0]["id"]]
        takes = []
        for result, row in zip(results, group, strict=True):
            seen = overlay_path(ClipStore(result.folder).path(result.name, task))
            if seen.is_file():
                shutil.copyfile(seen, folder / "seen" / f"{row['clip']}.png")
            overlay.setdefault(task.id, []).append(read_seen(seen))
            takes.append({"src": media.take(result, task), "mark": row["clip"], **judged(row)})
        clip = {"id": task.id, "bucket": task.bucket.value, "caption": task.caption, "takes": takes}
        clips.append(clip | _beside(media, task, results[0].summary["size_px"]))
    media.write()
    return clips, overlay


def _beside(media: Media, task: Task, size_px: int) -> dict[str, Any]:
    """The truth, and what the method was given where that is more than words."""
    from vgen.app.judging.given import shown

    given = shown(task, size_px)
    more = {} if given is None else {"given": {"title": given[0], "src": media.clip(given[1])}}
    return {"truth": media.truth(task, size_px), **more}


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """A row's chips, right or wrong, and whether all is right."""
    return {
        "exact": first_of(row),
        "chips": {k: int(passed(k, v)) for k in CHIPS if (v := row.get(k)) is not None},
    }


def gallery_order(groups: Sequence[list[dict[str, Any]]], most: int) -> list[list[dict[str, Any]]]:
    """A third is the probe set, the first tasks of each bucket in turn, the same in every report; the rest is
    worst first."""
    turns: dict[str, list[list[dict[str, Any]]]] = {}
    for group in groups:
        turns.setdefault(group[0]["bucket"], []).append(group)
    in_turn = [
        mine[i]
        for i in range(max(map(len, turns.values()), default=0))
        for mine in turns.values()
        if i < len(mine)
    ]
    probes = in_turn[: most if most >= len(groups) else -(-most // 3)]
    taken = {group[0]["id"] for group in probes}
    rest = sorted((g for g in groups if g[0]["id"] not in taken), key=lambda g: sum(merit(row) for row in g))
    return [*probes, *rest[: most - len(probes)]]


def merit(row: Numbers | dict[str, Any]) -> float:
    """How good a clip is, for putting the worst first: exact ones last, then by the share of what is
    right."""
    marks = [v for k in CHIPS if (v := row.get(k)) is not None]
    return (first_of(row) or 0.0) + sum(marks) / max(1, len(marks))


def first_of(row: Numbers | dict[str, Any]) -> float | None:
    """The number that stands for the whole clip, whatever its kind of task."""
    return next((row[k] for k in _WHOLE if row.get(k) is not None), None)


def passed(attribute: str, value: float) -> bool:
    """Whether a chip is green."""
    least = {"count": FEWEST_RIGHT_COUNTS, "coherence": _STEADY}.get(attribute, 1.0)
    return value >= least
