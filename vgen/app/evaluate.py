"""``vgen evaluate``: draw a suite with one or several checkpoints, score it with the oracle, and show it on one page."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import vgen
from vgen.app.clip_store import CEILING, ClipStore, Sampler, truth
from vgen.app.config import run_hydra
from vgen.app.loading import SHIPPED, TOYBOX, UNTRAINED, Checkpoint, adapter_path, load_backbone, open_checkpoint
from vgen.app.page import PageSettings, write_page
from vgen.app.scoreboard import ceiling_rows, score_all, summary, write_rows
from vgen.backbones.image_model import ImageModel
from vgen.data.clip_files import to_uint8
from vgen.data.files import write_json
from vgen.formats.adapter import plain
from vgen.methods._sampling import Prompt, Sampling
from vgen.metrics.suite import Suite, Task, tasks
from vgen.resources import conf_dir
from vgen.spec import field, spec


@spec
class EvaluateRun:
    """``adapter`` is one checkpoint or a list: ``shipped``, ``untrained``, a run's folder, a file. ``n`` replaces the number of clips of
    every bucket that the suite uses; frames and stride are the suite's. ``selftest`` clips go through the oracle's own tests and through
    the decoder."""

    adapter: Any = SHIPPED
    backbone: str | None = None
    suite: Suite = field(default_factory=Suite)
    sampler: Sampling = field(default_factory=Sampling)
    page: PageSettings = field(default_factory=PageSettings)
    n: int = 0
    batch_size: int = 8
    selftest: int = 24
    out: str = ""

    def __post_init__(self) -> None:
        if self.n < 0 or self.batch_size < 1 or self.selftest < 0:
            raise ValueError(
                f"n and selftest must not be negative and batch_size at least 1, got {self.n}, {self.selftest} and {self.batch_size}"
            )
        if isinstance(self.adapter, str):
            self.adapter = [self.adapter]
        if not self.adapter or not all(isinstance(a, str) and a for a in self.adapter) or len(set(self.adapter)) < len(self.adapter):
            raise ValueError(
                f"adapter must name one checkpoint, or several different ones as adapter=[untrained,shipped], got {self.adapter}"
            )

    def tasks(self) -> list[Task]:
        counts = {bucket.value: self.n for bucket, count in self.suite.counts().items() if count and self.n}
        return tasks(replace(self.suite, **counts))

    def names(self) -> dict[str, str]:
        """Short names, by which folders and tables know the checkpoints, to adapters."""
        out: dict[str, str] = {}
        for adapter in self.adapter:
            parts = [p for p in Path(adapter).parts if p not in ("/", "..", ".", "adapter.safetensors")]
            name = re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "checkpoint").strip("._") or "checkpoint"
            out[name if name not in out else f"{name}-{len(out) + 1}"] = adapter
        return out


@dataclass(frozen=True, slots=True)
class Evaluated:
    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is opened only where a clip is missing. ``identity`` says what it is, for the manifest."""

    identity: dict[str, Any]
    open: Callable[[], Sampler]


Reconstruct = Callable[[np.ndarray], np.ndarray]
"""uint8 f h w 3 through encoder and decoder."""


def offer() -> None:
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateRun)


def main() -> None:
    offer()
    run_hydra("evaluate", str(conf_dir() / "evaluate"), lambda run, _plain: evaluate(run))


def evaluate(
    run: EvaluateRun,
    console: Console | None = None,
    sources: dict[str, Source] | None = None,
    reconstruct: Callable[[], Reconstruct] | None = None,
) -> Evaluated:
    """Draw what is missing, then score everything. ``sources`` and ``reconstruct`` stand for the run's checkpoints and decoder in tests."""
    console = console or Console()
    if sources is None:
        sources = {name: _source(run, adapter) for name, adapter in run.names().items()}
        reconstruct = lambda: _reconstruct(load_backbone(run.backbone or TOYBOX))  # noqa: E731
    todo = run.tasks()
    store = ClipStore(Path(run.out or f"outputs/evaluate-{time.strftime('%Y%m%d-%H%M%S')}"))
    sampling = plain(asdict(run.sampler)) | {"num_frames": run.suite.num_frames}
    identity = {
        "vgen": vgen.__version__,
        "suite": run.suite.rule(),
        "sampler": sampling,
        "checkpoints": {name: s.identity for name, s in sources.items()},
    }
    store.claim(identity)
    began = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for name, source in sources.items():
            _draw(store, name, source, todo, run.batch_size, progress)
        if reconstruct is not None and run.selftest:
            _draw_ceiling(store, todo[: run.selftest], reconstruct)
        bar = progress.add_task("scoring", total=len(todo) * len(sources))
        rows = score_all(store, list(sources), todo, lambda: progress.advance(bar))
    size_px = store.read(rows[0].checkpoint, todo[0]).shape[1]
    found = summary(rows, ceiling_rows(store, todo[: run.selftest]), todo, run.selftest, size_px)
    write_rows(rows, store.folder / "scores.jsonl")
    write_json(store.folder / "summary.json", found)
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    write_page(store, rows, found, manifest, run.page, run.suite.stride_ticks)
    console.print(table(found))
    _advise(console, found)
    console.print(f"{len(rows)} clips in {time.perf_counter() - began:.0f} s: {store.folder / 'report.html'}")
    return Evaluated(store.folder, found)


def _draw(store: ClipStore, name: str, source: Source, todo: list[Task], batch_size: int, progress: Progress) -> None:
    missing = store.missing(name, todo)
    if not missing:
        return
    bar = progress.add_task(f"drawing {name}", total=len(todo), completed=len(todo) - len(missing))
    for num in store.fill(name, todo, source.open(), batch_size):
        progress.advance(bar, num)


def _draw_ceiling(store: ClipStore, todo: list[Task], reconstruct: Callable[[], Reconstruct]) -> None:
    missing = store.missing(CEILING, todo)
    if missing:
        through = reconstruct()
        for task in missing:
            store.write(CEILING, task, through(truth(task, 64)))


def _source(run: EvaluateRun, adapter: str) -> Source:
    identity: dict[str, Any] = {"adapter": adapter, "backbone": run.backbone}
    if adapter != UNTRAINED:
        identity["sha256"] = hashlib.sha256(adapter_path(adapter).read_bytes()).hexdigest()
    return Source(identity, lambda: sampler_of(open_checkpoint(adapter, run.backbone), run.sampler, run.suite.num_frames))


def sampler_of(checkpoint: Checkpoint, sampling: Sampling, num_frames: int) -> Sampler:
    """The checkpoint as a function from tasks to uint8 clips; each clip has its task's own noise, whatever the batch."""
    wish = replace(sampling, num_frames=num_frames)

    def draw(todo: list[Task]) -> np.ndarray:
        return np.stack([to_uint8(clip) for clip in checkpoint.sample([Prompt(task.caption, seed=task.seed) for task in todo], wish)])

    return draw


def _reconstruct(model: ImageModel) -> Reconstruct:
    @torch.no_grad()
    def through(video: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(video).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        return to_uint8(model.decode(model.encode(pixels))[0])

    return through


def table(found: dict[str, Any]) -> Table:
    """Headlines, one row per checkpoint; the best trick and the decoder's ceiling below."""
    out = Table(title="evaluation", title_justify="left")
    out.add_column("checkpoint", style="bold")
    for key in found["headlines"]:
        out.add_column(key, justify="right")
    for name, numbers in found["checkpoints"].items():
        out.add_row(name, *(_worded(numbers["overall"][key]) for key in found["headlines"]))
    out.add_section()
    out.add_row(
        "best trick",
        *("-" if (f := found["floors"][key])[0] is None else f"{f[0]:.2f} ({f[1]})" for key in found["headlines"]),
        style="dim",
    )
    out.add_row("ceiling", *("-" if (c := found["ceiling"].get(key)) is None else f"{c:.2f}" for key in found["headlines"]), style="dim")
    return out


def _worded(number: dict[str, Any]) -> str:
    return "-" if number["mean"] is None else f"{number['mean']:.2f} [{number['low']:.2f}, {number['high']:.2f}]"


def _advise(console: Console, found: dict[str, Any]) -> None:
    if found["valid"] is False:
        console.print(
            "[bold red]not valid:[/] the oracle can't read what the image model's decoder makes of the truth, so these numbers say nothing"
        )


if __name__ == "__main__":
    from vgen.app.cli import run as run_verb

    raise SystemExit(run_verb("evaluate"))
