"""What ``vgen evaluate`` is told."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vgen.app.folders import refuse_unsafe_name
from vgen.app.judging.page import PageSettings
from vgen.app.judging.shares import share
from vgen.app.judging.suite_edits import Tune, check_method, known_as
from vgen.app.loading import SHIPPED, SHIPPED_GUIDANCE, UNTRAINED
from vgen.app.stacks import StackEntry
from vgen.diffusion.frames import Sliding
from vgen.formats.adapter import plain
from vgen.methods import Recipe
from vgen.methods._editing import Editing, long_clips
from vgen.methods._sampling import Sampling, SamplingOverrides
from vgen.metrics.learned.settings import LearnedMetrics
from vgen.metrics.suite import Grid, Suite, Task, tasks
from vgen.spec import Choice, field, spec
from vgen.training.records import LoggerSettings

SWEEPS = Path("outputs/sweeps")
NO_SUITE = "none"
_ADAPTER = "adapter must name one checkpoint, or several different ones as adapter=[untrained,shipped]"


class Stage(Choice):
    """``prompts`` writes what other tools need to draw the suite."""

    ALL = "all"
    SAMPLE = "sample"
    SCORE = "score"
    PROMPTS = "prompts"


@spec
class EvaluateRun:
    """``adapter`` is one checkpoint or a list: ``shipped``, ``untrained``, a run's folder, a file; ``videos``
    one folder or a list of folders of clips that any tool made, with ``prompts`` naming their captions.
    ``method`` edits the clips of a suite of edits, by default with the image model as it is; ``tune`` teaches
    it each clip first; a clip longer than ``window`` is edited in windows, as by ``vgen edit``. ``n``
    replaces the number of clips of every bucket that the suite uses; frames and stride are the suite's.
    ``selftest`` clips go through the oracle's own tests and through the decoder. ``sweep`` names what this
    evaluation is part of, ``objective`` what a learning sweeper maximises (empty: the first headline). A
    suite with a grid is one evaluation per point (:meth:`points`). ``share`` is ``I/N`` where no launcher
    says it; ``num_processes`` 0 scores on every core. ``corpus`` are the toybox shards that the checkpoints
    were taught from: a suite of diversity then says whether clips are recalled. ``metrics`` are those that
    look through a network, whose weights ``learned`` names."""

    adapter: Any = None
    videos: Any = None
    prompts: str = ""
    backbone: str | None = None
    stack: list[StackEntry] = field(default_factory=list)
    loras: list[StackEntry] = field(default_factory=list)
    method: Recipe | None = None
    method_name: str | None = None
    tune: Tune = field(default_factory=Tune)
    window: Sliding = field(default_factory=long_clips)
    suite: Suite = field(default_factory=Suite)
    suite_name: str = "custom"
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    page: PageSettings = field(default_factory=PageSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    corpus: str = ""
    metrics: list[str] = field(default_factory=list)
    learned: LearnedMetrics = field(default_factory=LearnedMetrics)
    stage: Stage = Stage.ALL
    n: int = 0
    batch_size: int = 8
    selftest: int = 24
    num_processes: int = 0
    share: str = ""
    wait_minutes: float = 30.0
    sweep: str = ""
    objective: str = ""
    out: str = ""

    def __post_init__(self) -> None:
        if self.n < 0 or self.batch_size < 1 or self.selftest < 0 or self.num_processes < 0:
            raise ValueError(
                "n, selftest and num_processes must not be negative and batch_size at least 1, "
                f"got {self.n}, {self.selftest}, {self.num_processes} and {self.batch_size}"
            )
        self.videos = _names(
            self.videos, "videos must name one folder, or several different ones as videos=[a,b]"
        )
        if self.method is not None:
            self.method_name = self.method_name or known_as(self.method)
            check_method(self.method, self.method_name, self.tune, _names(self.adapter, _ADAPTER))
        if self.adapter is None and not self.videos:
            self.adapter = [SHIPPED] if self.method is None else [UNTRAINED]
        self.adapter = _names(self.adapter, _ADAPTER)
        if self.tune.num_steps and self.method is None:
            raise ValueError(
                f"tune teaches a clip to a method that edits, got tune.num_steps={self.tune.num_steps} "
                "without method"
            )
        if self.sweep and not re.fullmatch(r"[\w.-]+", self.sweep):
            raise ValueError(
                f"sweep is the name of a folder below {SWEEPS} and must hold letters, digits, - _ and . "
                f"only, got {self.sweep}"
            )
        refuse_unsafe_name(self.sweep, "sweep")
        refuse_unsafe_name(self.suite_name, "suite_name")
        if self.sweep and self.out:
            raise ValueError(
                f"an evaluation stands in its sweep's folder or in one of its own, got sweep={self.sweep} "
                f"and out={self.out}; give one"
            )

    def tasks(self) -> list[Task]:
        return tasks(self.whole_suite())

    def whole_suite(self) -> Suite:
        """With ``n`` put in."""
        counts: dict[str, Any] = {
            bucket.value: self.n for bucket, count in self.suite.counts().items() if count and self.n
        }
        return replace(self.suite, **counts)

    def names(self) -> dict[str, str]:
        """Short names, by which folders and tables know checkpoints and sets of videos, to what they name."""
        out: dict[str, str] = {}
        for place in (*self.adapter, *self.videos):
            parts = [p for p in Path(place).parts if p not in ("/", "..", ".", "adapter.safetensors")]
            name = re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "checkpoint").strip("._") or "checkpoint"
            if self.method_name and place in self.adapter:
                name = self.method_name if place == UNTRAINED else f"{self.method_name}-{name}"
            out[_free(name, out)] = place
        return out

    def settings(self) -> dict[str, Any]:
        """How clips are drawn, or edited."""
        named: dict[str, Any] = {}
        if self.method is not None:
            named = {"method": self.method_name, "tune": plain(self.tune.settings())}
            if (
                len(self.window.passes(self.suite.num_frames)) > 1
            ):  # a window that no clip fills is no setting
                named["window"] = plain(asdict(self.window))
            own = asdict(self.method)
            if self._samples():
                own |= {"num_steps": self.drawn().num_steps, "guidance": self.drawn().guidance}
        else:
            own = asdict(self.drawn())
            if not own["conditions"]:  # as before there were any
                del own["conditions"]
        return {**named, **plain(own), "num_frames": self.suite.num_frames}

    def _samples(self) -> bool:
        """Whether numbers of sampling mean something here."""
        return not isinstance(self.method, Editing) or self.method.sampled

    def drawn(self) -> Sampling:
        """The numbers of drawing or editing: of the method that edits, of the rig where nothing is edited,
        and what is given instead."""
        base = Sampling(guidance=SHIPPED_GUIDANCE) if self.method is None else self.method.sampling()
        return self.sampling.over(base)

    def points(self) -> list[EvaluateRun]:
        """One evaluation per point of the suite's grid, each in a folder of its own; this one alone where
        there is no grid."""
        settings = self.suite.grid.points()
        if not self.adapter or settings == [{}]:
            return [self]  # a grid is about the sampler, and videos of other tools are not drawn
        if self.videos:
            raise ValueError(
                f"suite {self.suite_name} has a grid of {len(settings)} settings of the sampler, and "
                f"videos={','.join(self.videos)} have "
                "no sampler; evaluate them without adapter, then 'vgen compare' them"
            )
        if "WANDB_SWEEP_ID" in os.environ:
            raise ValueError(
                f"a trial of a W&B sweep is one run, and suite {self.suite_name} has a grid of "
                f"{len(settings)}; let the sweep choose the "
                "settings and give suite.grid={guidance:[],num_steps:[]}"
            )
        root = SWEEPS / self.sweep if self.sweep else self.folder()
        return [self._point(point, root) for point in settings]

    def _point(self, point: dict[str, Any], root: Path) -> EvaluateRun:
        group = self.logger.group or self.sweep or root.name
        if self._samples():
            drawn: dict[str, Any] = {"sampling": replace(self.sampling, **point)}
        else:
            raise ValueError(
                f"suite {self.suite_name} has a grid of {', '.join(point)}, which "
                f"method={self.method_name} does not have"
            )
        suite, logger = replace(self.suite, grid=Grid()), replace(self.logger, group=group)
        bare = replace(self, suite=suite, videos=None, logger=logger, **drawn)
        return replace(bare, videos=None, sweep="", out=str(root / bare.label()))

    def label(self) -> str:
        """Tells the evaluations of a sweep apart, the same on every machine."""
        digest = hashlib.sha256(
            json.dumps([list(self.names().items()), self.suite.rule(), self.settings()]).encode()
        ).hexdigest()[:6]
        said = self.said().replace(" ", "").split(",")
        return "_".join(x for x in ("+".join(self.names())[:60], self.suite_name, *said, digest) if x)

    def said(self) -> str:
        """The settings that people vary most, where they are there."""
        own = self.settings()
        return ", ".join(
            f"{short} {own[key]:g}"
            for key, short in (("guidance", "guidance"), ("num_steps", "steps"))
            if key in own
        )

    def folder(self) -> Path:
        """Where everything goes; the same for all ranks."""
        if self.out or self.sweep:
            return Path(self.out).expanduser() if self.out else SWEEPS / self.sweep / self.label()
        if "SLURM_JOB_ID" in os.environ:
            return Path(
                f"outputs/evaluate-slurm{os.environ['SLURM_JOB_ID']}"
            )  # the same again after a requeue
        if share(self.share).of > 1:
            raise ValueError(
                f"{share(self.share).of} processes draw into one folder, which must be named: give "
                "out=FOLDER or sweep=NAME"
            )
        return Path(f"outputs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}")


def _free(name: str, taken: dict[str, str]) -> str:
    """``name``, or with its place in the row, or the next number that nothing else is called by."""
    number, free = len(taken) + 1, name
    while free in taken:
        number, free = number + 1, f"{name}-{number}"
    return free


def _names(given: Any, law: str) -> list[str]:
    names = [] if given is None else [given] if isinstance(given, str) else list(given)
    right = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    if not right or given == [] or given == "":
        raise ValueError(f"{law}, got {given}")
    return names
