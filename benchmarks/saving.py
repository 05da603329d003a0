"""What a checkpoint costs at the size of SD 1.5's motion module: 417 M learning parameters with AdamW's
moments and averages in fp32, 6.7 GB, written by a run of one process.

    python benchmarks/saving.py out=FOLDER                       # this checkout, once
    python benchmarks/saving.py out=FOLDER trees=OLD,NEW n=3     # checkouts in turns, a process each time
    python benchmarks/saving.py out=FOLDER million=47            # so many parameters, by fewer modules

Seconds of the clock and of the processor are those of the whole save, flushed to the disk; memory is what the
process holds at its peak beyond what training holds. The disk is idle and its cache flushed before each save;
what was written is deleted after it. Prints a JSON line for each save, and a table of medians and ranges.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from vgen.training import checkpoints
from vgen.training.checkpoints import KeepLast
from vgen.training.ema import Ema

WIDTHS = (320,) * 5 + (640,) * 5 + (1280,) * 10
"""Of SD 1.5's motion modules: two in each of four levels on the way down, three on the way up."""
FIGURES = ("seconds", "cpu_seconds", "gigabytes", "peak_megabytes")


def shapes(million: int) -> list[tuple[int, ...]]:
    """Tensors of motion modules (projections, two attentions, a gated feed-forward, biases and norms) up to
    ``million`` parameters, the widest first."""
    found: list[tuple[int, ...]] = []
    total = 0
    for width in sorted(WIDTHS, reverse=True):
        matrices = [(width, width)] * 10 + [(8 * width, width), (width, 4 * width)]
        module = [*matrices, *[(width,)] * 14, (8 * width,)]
        total += sum(torch.Size(shape).numel() for shape in module)
        if found and total > million * 1e6:
            break
        found += module
    return found


class Random(pl.LightningModule):
    """Learning tensors without a net: one step on one of them, then moments for all."""

    def __init__(self, million: int) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(torch.randn(shape) for shape in shapes(million))
        self.learning = {f"unet.inserted.{n}": p for n, p in self.tensors.named_parameters()}
        self.record = {"run": {}, "seed": 0, "global_batch": 1, "wandb_run_id": None}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.tensors[-1].sum()

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(self.tensors.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Begin(pl.Callback):
    """Stands before what saves at the end: fills in the moments, then starts the clock."""

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        state = trainer.optimizers[0].state
        for parameter in module.tensors:
            moments = {key: torch.rand_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            state[parameter] = {"step": torch.tensor(1.0), **moments}
            parameter.grad = None
        os.sync()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        self.held, self.cpu, self.began = memory("VmRSS"), cpu_seconds(), time.perf_counter()


class End(pl.Callback):
    """Stands behind it."""

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.ended, self.cpu, self.peak = time.perf_counter(), cpu_seconds(), memory("VmHWM")


def memory(name: str) -> int:
    """Kilobytes."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{name}:")]
    return int(line.split()[1])


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def keeper(folder: Path, ema: Ema) -> KeepLast:
    """Of this checkout or of one before the present format, which had no clock."""
    if not hasattr(checkpoints, "Saver"):
        return KeepLast(folder, 100, 1)  # type: ignore[call-arg]
    clock = importlib.import_module("vgen.training.clock").Clock()
    return KeepLast(folder, 100, 1, checkpoints.Saver(ema, clock))


def plugins() -> list[Any]:
    return [checkpoints.AtomicCheckpointIO()] if hasattr(checkpoints, "AtomicCheckpointIO") else []


def save(out: Path, million: int) -> dict[str, float]:
    ema, begin, end = Ema(0.999), Begin(), End()
    fitter = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ema, begin, keeper(out, ema), end],
        plugins=plugins(),
        default_root_dir=out,
    )
    module = Random(million)
    fitter.fit(module, torch.utils.data.DataLoader(torch.zeros(1, 1)))
    files = [path for path in out.rglob("*") if path.is_file()]
    figures = {
        "parameters": sum(p.numel() for p in module.tensors),
        "seconds": end.ended - begin.began,
        "cpu_seconds": end.cpu - begin.cpu,
        "gigabytes": sum(path.stat().st_size for path in files) / 1e9,
        "peak_megabytes": (end.peak - begin.held) / 1e3,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def in_turns(trees: list[str], n: int, arguments: list[str]) -> None:
    """Each checkout by turns, begun by another one each time."""
    found: dict[str, list[dict[str, float]]] = {tree: [] for tree in trees}
    for i in range(n):
        for tree in trees if i % 2 == 0 else reversed(trees):
            env = os.environ | {"PYTHONPATH": tree}
            command = [sys.executable, __file__, *arguments]
            said = subprocess.run(command, env=env, cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
            found[tree].append(json.loads(said.stdout.strip().splitlines()[-1]))
            print(tree, found[tree][-1], flush=True)
    print(f"| checkout | {' | '.join(FIGURES)} |")
    for tree, saves in found.items():
        print(f"| {tree} | {' | '.join(told([one[name] for one in saves]) for name in FIGURES)} |")


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    out, million = Path(given["out"]).absolute(), int(given.get("million", 417))
    if out.exists():
        raise SystemExit(
            f"out={out} is there already, and is deleted after each save; name a folder that is not"
        )
    if "trees" in given:
        more = [f"out={out}", f"million={million}"]
        in_turns([str(Path(t).absolute()) for t in given["trees"].split(",")], int(given.get("n", 3)), more)
        return
    out.mkdir(parents=True)
    try:
        print(json.dumps(save(out, million)))
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main(sys.argv[1:])
