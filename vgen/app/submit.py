"""``vgen submit VERB``: a verb as a job of Slurm, by the batch scripts in slurm/; the state of jobs."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vgen.app.early import check
from vgen.app.refusals import nearest
from vgen.app.sweep import read_sweep

SCRIPTS = Path("slurm")
RANKED = ("train", "evaluate", "doctor")
"""Verbs of several processes, one per GPU; they have scripts of their own."""
ALONE = ("prepare", "generate", "edit", "export", "sweep")
"""Verbs of one process: slurm/alone.sbatch."""
_USAGE = (
    "vgen submit VERB [slurm.KEY=VALUE ...] [dry_run=true] key=value ..., vgen submit state [JOB ...], or "
    "vgen submit cancel JOB ..."
)
_TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]?")
_ARRAY = re.compile(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of Slurm, each key once: ``slurm.KEY=VALUE``.

    ``gpus`` and ``tasks`` are per node, ``cpus`` per task, ``mem`` per node. ``tasks`` is one per GPU unless
    it is given. What is empty is the cluster's own default. ``after`` names a job that has to end well first.
    """

    nodes: str = ""
    gpus: str = ""
    tasks: str = ""
    cpus: str = ""
    mem: str = ""
    time: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    array: str = ""
    after: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        for key in ("nodes", "tasks", "cpus"):
            self._expect(key, r"[1-9]\d*", "a number of at least 1")
        self._expect("gpus", r"\d+", "a number of GPUs per node")
        self._expect("mem", _MEMORY.pattern, "memory per node as 64G")
        self._expect("time", _TIME.pattern, "minutes, hours:minutes:seconds or days-hours:minutes:seconds")
        self._expect("array", _ARRAY.pattern, "numbers as 0-15, or 0-15%4 for four at a time")
        self._expect("after", r"\d+", "the number of a job")

    def _expect(self, key: str, pattern: str, meaning: str) -> None:
        value = getattr(self, key)
        if value and not re.fullmatch(pattern, value):
            raise ValueError(f"slurm.{key}={value} is not {meaning}")

    def options(self, ranked: bool) -> list[str]:
        """As sbatch takes them; a verb of ranks gets one process per GPU."""
        tasks = self.tasks or (self.gpus if ranked and self.gpus not in ("", "0") else "")
        if ranked and self.gpus not in ("", "0") and tasks != self.gpus:
            raise ValueError(
                f"slurm.tasks={tasks} processes on slurm.gpus={self.gpus} GPUs of each node; vgen runs one "
                "process per GPU: leave slurm.tasks out"
            )
        if not ranked and (tasks not in ("", "1") or self.nodes not in ("", "1")):
            raise ValueError(
                "this verb is one process: leave out slurm.tasks and slurm.nodes; slurm.array runs several "
                "jobs"
            )
        named = {
            "job-name": self.name,
            "nodes": self.nodes,
            "ntasks-per-node": tasks,
            "gpus-per-node": self.gpus,
            "cpus-per-task": self.cpus,
            "mem": self.mem,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "array": self.array,
            "dependency": f"afterok:{self.after}" if self.after else "",
        }
        return [f"--{option}={value}" for option, value in named.items() if value]


def main() -> None:
    words = sys.argv[1:]
    if not words or "=" in words[0]:
        raise ValueError(f"say what to submit: {_USAGE}")
    if words[0] == "state":
        print(state(words[1:]))
    elif words[0] == "cancel":
        print(cancel(words[1:]))
    else:
        print(submit(words[0], words[1:]))


def submit(verb: str, words: Sequence[str]) -> str:
    """Hands the job to sbatch, or says the command where ``dry_run=true``; returns what to do next."""
    asked, own, dry_run = read(verb, words)
    if verb == "sweep":
        asked, own = _trials(asked, own)
    elif sentence := check(verb, own):
        raise ValueError(sentence)
    command = _command(verb, asked, own)
    if dry_run:
        return shlex.join(command)
    job = _asked_of("sbatch", *command[1:]).split(";")[0]
    name = asked.name or f"vgen-{verb}"
    log = f"slurm-{name}-{job}.out" if not asked.array else f"slurm-{name}-{job}_*.out"
    return f"job {job} is in the queue\nits output: {log}\nits state: vgen submit state {job}"


def read(verb: str, words: Sequence[str]) -> tuple[Asked, list[str], bool]:
    """What is asked of Slurm, the verb's own arguments, and whether only to say the command."""
    if verb not in RANKED + ALONE:
        raise ValueError(
            f"{verb} is no verb that is submitted{nearest(verb, RANKED + ALONE) or ';'} those are "
            f"{', '.join(RANKED + ALONE)}"
        )
    keys = [field.name for field in dataclasses.fields(Asked)]
    given: dict[str, str] = {}
    own: list[str] = []
    dry_run = False
    for word in words:
        key, _, value = word.partition("=")
        if key == "dry_run":
            if value not in ("true", "false"):
                raise ValueError(f"dry_run={value} is neither true nor false; true only prints the command")
            dry_run = value == "true"
        elif not key.startswith("slurm."):
            own.append(word)
        elif key.removeprefix("slurm.") in keys:
            given[key.removeprefix("slurm.")] = value
        else:
            near = nearest(key.removeprefix("slurm."), keys)
            raise ValueError(f"{key} is not a key of vgen submit{near or ';'} they are {', '.join(keys)}")
    return Asked(**given), own, dry_run


def _trials(asked: Asked, own: list[str]) -> tuple[Asked, list[str]]:
    """An array with a task for every trial of a sweep; a trial that fails is one row of its table."""
    names = [word for word in own if "=" not in word]
    if len(names) != 1:
        raise ValueError("name the sweep to submit, as vgen submit sweep lr; 'vgen sweep' lists them")
    sweep = read_sweep(names[0])
    if sweep.method != "grid":
        raise ValueError(
            f"{sweep.path} is method={sweep.method}, whose trials W&B chooses; only method: grid can be an "
            "array"
        )
    num = sweep.num_trials
    return dataclasses.replace(asked, array=asked.array or f"0-{num - 1}"), own


def _command(verb: str, asked: Asked, own: Sequence[str]) -> list[str]:
    script = SCRIPTS / (f"{verb}.sbatch" if verb in RANKED else "alone.sbatch")
    if not script.is_file():
        raise ValueError(
            f"there is no {script} here; submit from vgen's checkout, on a file system that all nodes share"
        )
    options = asked.options(verb in RANKED)
    if not asked.name and verb not in RANKED:
        options.insert(0, f"--job-name=vgen-{verb}")
    if asked.array:
        options.append("--output=slurm-%x-%A_%a.out")
    words = [*own] if verb in RANKED else [verb, *own]
    return ["sbatch", "--parsable", *options, str(script), *words]


def state(jobs: Sequence[str]) -> str:
    """One line a job: number, name, state, elapsed and left time, nodes or the reason why it waits."""
    _refuse_no_numbers(jobs)
    chosen = ["--jobs", ",".join(jobs)] if jobs else ["--me"]
    said = _asked_of("squeue", *chosen, "--format=%.10i %.20j %.10T %.12M %.12L %R")
    if "\n" in said:  # a line of titles is always there
        return said
    return "no job of yours waits or runs" if not jobs else f"job {', '.join(jobs)} has ended"


def cancel(jobs: Sequence[str]) -> str:
    """Ends jobs; a training saves first, since scancel begins with TERM."""
    if not jobs:
        raise ValueError(
            "name the jobs to cancel, as vgen submit cancel 4711; 'vgen submit state' lists them"
        )
    _refuse_no_numbers(jobs)
    _asked_of("scancel", "--full", *jobs)
    return f"told job {', '.join(jobs)} to end"


def _refuse_no_numbers(jobs: Sequence[str]) -> None:
    for job in jobs:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            raise ValueError(f"{job} is not the number of a job; 'vgen submit state' lists yours")


def _asked_of(program: str, *arguments: str) -> str:
    """What a program of Slurm's says; its complaint is ours."""
    if shutil.which(program) is None:
        raise ValueError(
            f"{program} is not on this machine; run vgen submit where Slurm is, as on a login node of the "
            "cluster, or add dry_run=true to see the command"
        )
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ValueError(f"{program} refuses: {said}")
    return done.stdout.strip()
