"""``vgen sweep NAME``: a grid of evaluations or trainings in W&B's own format, shown, started here or by its
agent, and put on one leaderboard or into one table."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from vgen.app import jobs, sweep_pool
from vgen.app.folders import refuse_unsafe_name
from vgen.app.judging.evaluation import SWEEPS
from vgen.app.judging.leaderboard import alike, board, table
from vgen.app.judging.page import PageSettings, write_report
from vgen.app.judging.results import load, rank
from vgen.app.refusals import listed
from vgen.app.terminal import Terminal
from vgen.data.files import write_json
from vgen.resources import conf_dir
from vgen.training.records import WandbMode, has_key, is_reachable

_ARGUMENTS = "${args_no_hyphens}"
_TRIALS = {"evaluate": "evaluations", "train": "trainings"}
_WAYS = ("local", "wandb")
_KEYS = ("launch", "aggregate", "trial", "jobs")
_USAGE = (
    "vgen sweep NAME [launch=local|wandb] [jobs=N] [trial=N] [key=value for every trial], or vgen sweep "
    "aggregate=FOLDER"
)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A file of W&B's format. ``fixed`` are the words of its command after ``vgen VERB`` that all trials
    share; ``verb`` is evaluate or train."""

    path: Path
    verb: str
    method: str
    parameters: dict[str, list[Any]]
    fixed: list[str]
    plain: dict[str, Any]

    @property
    def num_trials(self) -> int:
        return math.prod(len(values) for values in self.parameters.values())

    def multirun(self, more: Sequence[str]) -> list[str]:
        """The same grid for Hydra, in one process: arguments of the verb."""
        swept = [f"{name}={','.join(map(_written, values))}" for name, values in self.parameters.items()]
        return ["-m", *swept, *(f for f in self.fixed if f.split("=")[0] != "logger"), *more]

    def point(self, number: int) -> list[str]:
        """One of the grid, counted from 0, as W&B's agent writes it."""
        if not 0 <= number < self.num_trials:
            raise ValueError(
                f"trial={number} is none of {self.path.stem}'s {self.num_trials} trials; they are 0 to "
                f"{self.num_trials - 1}"
            )
        chosen = next(islice(product(*self.parameters.values()), number, None))
        return [f"{name}={_written(value)}" for name, value in zip(self.parameters, chosen, strict=True)]

    def trial(self, number: int, more: Sequence[str]) -> list[str]:
        """Arguments of the verb for one point of the grid.

        A training gets a name of its own, under which it goes on when it is started again, and all of them
        one group in W&B.
        """
        words = [*self.point(number), *self.fixed, *more]
        if self.verb != "train":
            return words
        given = dict(word.split("=", 1) for word in more if "=" in word)
        added = {"run.resume": "auto", "logger.group": self.path.stem}
        words += [f"{key}={value}" for key, value in added.items() if key not in given]
        return [*words, f"run.name={self._name(number, more)}"]

    def note(self, number: int, more: Sequence[str]) -> None:
        """That a training was tried, so that it has its row where it ends before it has a folder."""
        if self.verb == "train":
            jobs.note(self.folder(more), self._name(number, more), self.point(number))

    def _name(self, number: int, more: Sequence[str]) -> str:
        given = dict(word.split("=", 1) for word in more if "=" in word)
        return f"{given.get('run.name', self.path.stem)}-{number}"

    def folder(self, more: Sequence[str]) -> Path:
        named = dict(word.split("=", 1) for word in (*self.fixed, *more) if "=" in word)
        if self.verb != "evaluate":
            return Path(named["run.dir"])
        refuse_unsafe_name(named["sweep"], "sweep")
        return SWEEPS / named["sweep"]

    def is_begun(self, more: Sequence[str]) -> bool:
        """Whether a trial is finished."""
        written = "summary.json" if self.verb == "evaluate" else "metrics/metrics.csv"
        return any(self.folder(more).glob(f"*/{written}"))


def main() -> None:
    words = sys.argv[1:]
    keys = dict(w.split("=", 1) for w in words if w.split("=", 1)[0] in _KEYS and "=" in w)
    names = [w for w in words if "=" not in w]
    more = [w for w in words if "=" in w and w.split("=", 1)[0] not in keys]
    if "aggregate" in keys and not names and not more:
        aggregate(Path(keys["aggregate"]), Terminal())
        return
    if len(names) != 1 or "aggregate" in keys or keys.get("launch", _WAYS[0]) not in _WAYS:
        raise ValueError(f"usage: {_USAGE}, got {' '.join(words) or 'nothing'}; there are {listed(known())}")
    sweep = read_sweep(names[0])
    if "launch" not in keys:
        print(told(sweep, more))
    elif keys["launch"] == "local":
        _run_here(sweep, more, keys.get("trial"), keys.get("jobs"))
    else:
        _run_agent(sweep, more)


def known() -> list[str]:
    return sorted(path.stem for path in (conf_dir() / "sweep").glob("*.yaml"))


def read_sweep(name: str) -> Sweep:
    """By the name of a shipped sweep, or a file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else conf_dir() / "sweep" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(
            f"{name} is no sweep; there are {listed(known())}, or give a file in W&B's format (FILE.yaml)"
        )
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    command = [str(word) for word in plain.get("command", [])]
    if not _is_command(command):
        raise ValueError(
            f"{path} must have command: ['${{env}}', vgen, evaluate, '{_ARGUMENTS}', sweep=NAME] or "
            f"['${{env}}', vgen, train, '{_ARGUMENTS}', run.dir=FOLDER], got {command}"
        )
    parameters = {
        k: v["values"] if "values" in v else [v["value"]]
        for k, v in plain["parameters"].items()
        if {"values", "value"} & set(v)
    }
    fixed = [word for word in command[3:] if word != _ARGUMENTS]
    return Sweep(path, command[2], plain.get("method", "grid"), parameters, fixed, plain)


def _is_command(command: Sequence[str]) -> bool:
    gathers = {"evaluate": "sweep=", "train": "run.dir="}.get(command[2] if len(command) > 2 else "")
    begins = list(command[:2]) == ["${env}", "vgen"] and _ARGUMENTS in command
    return begins and gathers is not None and any(word.startswith(gathers) for word in command)


def told(sweep: Sweep, more: Sequence[str]) -> str:
    """What it is and the commands that run it."""
    grid = " x ".join(
        f"{name} ({len(values)})" for name, values in sweep.parameters.items() if len(values) > 1
    )
    extra = "".join(f" {word}" for word in more)
    lines = [
        f"{sweep.path.stem}: {sweep.method} over {grid}"
        + (f", {sweep.num_trials} {_TRIALS[sweep.verb]}" if sweep.method == "grid" else "")
    ]
    if sweep.method == "grid":
        lines += [
            "",
            "here, without W&B, a trial per GPU at a time (jobs=N: N at a time):",
            f"  vgen sweep {sweep.path.stem} launch=local{extra}",
            "which is, one after another,",
        ]
        lines += [f"  vgen {sweep.verb} {' '.join(sweep.multirun(more))}"]
        lines += [
            "",
            "on a cluster of Slurm, a task of an array for every trial:",
            f"  vgen submit sweep {sweep.path.stem} slurm.gpus=1{extra}",
            f"  vgen sweep aggregate={sweep.folder(more)}",
        ]
    lines += [
        "",
        "with W&B, on as many machines as share this folder:",
        f"  vgen sweep {sweep.path.stem} launch=wandb{extra}",
        "which is",
    ]
    added = f"   (a copy of it, with '{extra.strip()}' at the end of its command)" if more else ""
    lines += [
        f"  wandb sweep {sweep.path}{added}",
        "  wandb agent SWEEP_ID",
        f"  vgen sweep aggregate={sweep.folder(more)}",
    ]
    return "\n".join(lines)


def _run_here(sweep: Sweep, more: Sequence[str], trial: str | None, asked: str | None) -> None:
    """The whole grid, in this process or several at a time in processes of their own; or its trial of that
    number, here."""
    if sweep.method != "grid":
        raise ValueError(
            f"{sweep.path} is method={sweep.method}, whose trials W&B chooses: launch=wandb; here only "
            "method: grid can run"
        )
    if trial is not None and not trial.isdecimal():
        raise ValueError(f"trial={trial} is no number; trials are counted from 0")
    if asked is not None and (not asked.isdecimal() or int(asked) < 1):
        raise ValueError(f"jobs={asked} must be a number of at least 1; it is how many trials run at a time")
    gpus = sweep_pool.visible_gpus()
    num = int(asked) if asked else max(1, len(gpus))
    if trial is None and num > 1:
        sweep_pool.run(_trials(sweep, more), num, gpus, sweep.folder(more) / jobs.TRIALS)
        aggregate(sweep.folder(more), Terminal())
        return
    from vgen.app.cli import run

    if trial is None:
        raise SystemExit(run(sweep.verb, sweep.multirun(more)))
    arguments = sweep.trial(int(trial), more)
    sweep.note(int(trial), more)
    raise SystemExit(run(sweep.verb, arguments))


def _trials(sweep: Sweep, more: Sequence[str]) -> list[list[str]]:
    """The commands of all trials, as arguments of vgen."""
    begin = ["sweep", str(sweep.path), "launch=local"]
    return [[*begin, f"trial={number}", *more] for number in range(sweep.num_trials)]


def _run_agent(sweep: Sweep, more: Sequence[str]) -> None:
    """Registers the sweep and works on it until it is done; other machines may join with the printed
    command."""
    lack = _lack()
    if lack is not None:
        raise ValueError(
            f"launch=wandb lets W&B's server deal out the trials, and {lack}; or give launch=local, which "
            "needs no W&B"
        )
    import wandb

    project = sweep.plain.get("project", "vgen")
    try:
        number = wandb.sweep({**sweep.plain, "command": [*sweep.plain["command"], *more]}, project=project)
    except wandb.Error as error:
        raise ValueError(
            f"W&B's server does not take the sweep ({error}); run 'wandb login' again, or give launch=local"
        ) from error
    print(f"other machines join with: wandb agent {project}/{number}", flush=True)
    # the agent looks for vgen on the PATH, where it need not be: it is beside the Python that runs this
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "agent", "--project", project, number], env=environment, check=False
    )
    if done.returncode or not sweep.is_begun(more):
        raise ValueError(
            f"W&B's agent has ended ({done.returncode}) before the sweep was through, and says above why; "
            "once that is mended, go on with "
            f"'wandb agent {project}/{number}' and 'vgen sweep aggregate={sweep.folder(more)}'"
        )
    aggregate(sweep.folder(more), Terminal())


def _lack() -> str | None:
    """What stands between this machine and W&B's server, with its remedy."""
    mode = os.environ.get("WANDB_MODE", WandbMode.ONLINE.value)
    if mode != WandbMode.ONLINE.value:
        return f"WANDB_MODE={mode} forbids asking it: unset WANDB_MODE"
    if not has_key():
        return "there is no key for it: run 'wandb login'"
    return None if is_reachable() else "it can't be reached from here: check the network, or WANDB_BASE_URL"


def _written(value: Any) -> str:
    """A value as Hydra reads it; W&B's agent writes plain ones alike."""
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    return f"'{text}'" if isinstance(value, str) and any(c in text for c in " ,[]{}'\"=") else text


def aggregate(folder: Path, console: Console, page: PageSettings | None = None) -> dict[str, Any]:
    """``leaderboard.json`` and ``report/`` of a sweep, or the table of its trainings. Evaluations that must
    not be compared get a leaderboard each."""
    found = sorted(path.parent for path in folder.glob("*/summary.json"))
    if not found and (runs := jobs.of_folder(folder)):
        jobs.show(runs, console)
        return {"runs": [str(run.folder) for run in jobs.ranked(runs)]}
    if not found:
        raise ValueError(
            f"{folder} holds no finished evaluation (no */summary.json) and no run; give the folder of a "
            "sweep"
        )
    groups = alike(load(*found))
    boards = [board(group) for group in groups]
    write_json(folder / "leaderboard.json", {"leaderboards": boards})
    for i, (group, one) in enumerate(zip(groups, boards, strict=True)):
        console.print(table(one))
        place = folder / ("report" if len(groups) == 1 else f"report-{one['suite_name']}-{i}")
        write_report(place, rank(group), page or PageSettings(), console)
        console.print(
            f"leaderboard of {len(group)} from {len({r.folder for r in group})} evaluations: "
            f"{place / 'index.html'}",
            soft_wrap=True,
        )
    return {"leaderboards": boards}
