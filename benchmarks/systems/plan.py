"""What every system's file uses: commands that run once, scores that are compared clip by clip, figures."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vgen.app.judging.given import shown as given_panel
from vgen.app.judging.results import load
from vgen.metrics.statistics import Interval, average

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("trainer=cpu", "logger=disabled", "callbacks=none", "run.resume=auto")
Row = dict[str, Any]
Panel = tuple[str, np.ndarray]
"""A title, and a clip uint8 f h w 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of a system, with its interval, and what the trivial control has of it.

    ``what`` names the number and its unit. ``control`` says what the system is compared with; ``beyond`` is
    the difference clip by clip. ``more`` is better unless ``less`` is true.
    """

    what: str
    ours: Interval
    control: str = ""
    theirs: Interval | None = None
    beyond: Interval | None = None
    less: bool = False


def compared(
    what: str,
    ours: Sequence[float | None],
    control: str = "",
    theirs: Sequence[float | None] = (),
    *,
    groups: Sequence[Hashable] | None = None,
    less: bool = False,
) -> Figure:
    """The mean of ``ours``, that of ``theirs`` over the same clips, and the difference by pairs. A clip that
    one of the two cannot tell about is left out of both."""
    if not theirs:
        return Figure(what=what, ours=_interval(ours, groups), less=less)
    if len(ours) != len(theirs):
        raise ValueError(
            f"{what}: figures are compared over the same clips, got {len(ours)} and {len(theirs)}"
        )
    there = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if None not in (a, b)]
    kept = None if groups is None else [groups[i] for i in there]
    mine, others = [ours[i] for i in there], [theirs[i] for i in there]
    apart = [a - b for a, b in zip(mine, others, strict=True)]
    return Figure(
        what=what,
        ours=_interval(mine, kept),
        control=control,
        theirs=_interval(others, kept),
        beyond=_interval(apart, kept),
        less=less,
    )


def _interval(values: Sequence[float | None], groups: Sequence[Hashable] | None) -> Interval:
    found = average(values, groups)
    return Interval(None, None, None, 0) if found is None else found.interval()


@dataclass(slots=True)
class Workplace:
    """A folder in which commands run once each. ``short`` asks of every command what takes seconds: two
    steps, two clips. ``notes`` are the commands of the system at hand, and what they took."""

    folder: Path
    short: bool = False
    notes: list[Row] = field(default_factory=list)

    def num(self, full: int, short: int = 2) -> int:
        """How many clips, or steps: all, or what the short form makes do with."""
        return short if self.short else full

    def vgen(self, name: str, *words: str) -> None:
        """Run ``vgen WORDS`` in the folder, unless it ended well under this name before. Ends the program
        where the command fails; its output is in ``log/NAME.log``."""
        self.run(name, [sys.executable, "-m", "vgen", *words])

    def run(self, name: str, command: Sequence[str]) -> None:
        """As :meth:`vgen`, of any program."""
        ours = list(command[1:3]) == ["-m", "vgen"]
        shown = " ".join(["vgen", *command[3:]] if ours else [Path(command[0]).name, *command[1:]])
        done = self.folder / "log" / f"{name}.json"
        if done.is_file() and (before := json.loads(done.read_text()))["command"] == shown:
            self.notes.append(before)
            return
        done.parent.mkdir(parents=True, exist_ok=True)
        print(f"  {name} ...", flush=True)
        note = self._timed(name, shown, command)
        done.write_text(json.dumps(note))
        self.notes.append(note)
        print(f"  {name}: {note['cpu_s'] / 60:.1f} min of CPU, {note['wall_s'] / 60:.1f} min", flush=True)

    def _timed(self, name: str, shown: str, command: Sequence[str]) -> Row:
        path = self.folder / "log" / f"{name}.log"
        before, begin = _child_seconds(), time.monotonic()
        found = os.environ.get("PYTHONPATH", "")
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), found]))}
        with path.open("w") as log:
            ended = subprocess.run(command, cwd=self.folder, env=env, stdout=log, stderr=log, check=False)
        if ended.returncode:
            last = path.read_text().strip().splitlines()[-3:]
            raise SystemExit(f"{name} ended with {ended.returncode} ({path}): {' '.join(last)}")
        cpu = _child_seconds() - before
        return {
            "name": name,
            "command": shown,
            "cpu_s": round(cpu, 1),
            "wall_s": round(time.monotonic() - begin, 1),
        }

    def prepared(self, name: str, *words: str, num_clips: int = 0) -> None:
        """Shards ``data/NAME`` by ``vgen prepare WORDS``; ``num_clips`` of them, where it is given."""
        asked = [f"data.num_clips={self.num(num_clips, 24)}"] if num_clips else []
        self.vgen(f"prepare-{name}", "prepare", *words, *asked, f"out=data/{name}")

    def trained(self, name: str, experiment: str, steps: int, *words: str) -> None:
        """``runs/NAME`` by ``vgen train experiment=EXPERIMENT``, in so many steps."""
        told = [f"experiment={experiment}", f"run.name={name}", f"trainer.max_steps={self.num(steps)}"]
        few = ["trainer.val_every_steps=2", "data.val_clips=2", "data.batch_size=2"] if self.short else []
        self.vgen(f"train-{name}", "train", *told, *QUIET, *words, *few)

    def evaluated(self, name: str, n: int, *words: str) -> list[Row]:
        """Rows of ``vgen evaluate WORDS``, ``n`` clips of the first bucket, in the suite's order."""
        out = f"evaluations/{name}"
        buckets = [f"suite.{bucket}=0" for bucket in ("pair", "triple", "extrapolation", "paraphrase")]
        few = ["sampling.num_steps=2"] if self.short else []
        asked = [f"suite.iid={self.num(n)}", *buckets, "selftest=2", f"out={out}"]
        self.vgen(f"evaluate-{name}", "evaluate", *words, *asked, *few)
        lines = (self.folder / out / "scores.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def shown(self, name: str, task: int = 0) -> list[Panel]:
        """What an evaluation's first task is given, where it is given a clip, and what was drawn for it."""
        [result, *_] = load(self.folder / "evaluations" / name)
        wish = result.tasks()[task]
        drawn = np.load(result.folder / "samples" / result.name / f"{wish.id}.npy", allow_pickle=False)
        before = given_panel(wish, drawn.shape[1])
        return [*([before] if before else []), (wish.caption, drawn)]


def column(rows: Sequence[Row], key: str) -> list[float | None]:
    return [row[key] for row in rows]


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plain(figure: Figure) -> Row:
    """A figure as JSON; what it does not have is left out."""
    return {key: value for key, value in asdict(figure).items() if value not in (None, "", False)}
