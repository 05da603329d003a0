"""Training steps and sampling of motion modules on a GPU, ours beside diffusers', as one table: what
``benchmarks/gpu.sh`` runs.

Both sides have the same weights, and their outputs are compared before anything is timed. Steps are
interleaved; a figure is the median over rounds with its quartiles. Memory is what a side holds and what its
step takes on top, as if it were alone. What no time is left for is named in the table.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter
from step_time import Bench
from torch.utils.flop_counter import FlopCounterMode

from vgen.backbones.blank import Blank, blank
from vgen.formats import diffusers_motion
from vgen.methods import assemble
from vgen.methods._sampling import Prompt, Sampling, generate
from vgen.methods.animatediff import AnimateDiff

PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165}
"""Dense bf16 in TFLOP/s by the makers' data sheets, of what a share is given."""
FREE_SHARE, TOLERANCE_BF16, TOLERANCE = 0.85, 5e-2, 1e-4
GB = 2**30
SIDES = ("ours", "diffusers")


@dataclass(slots=True)
class Report:
    """Rows as they come, written after each: a run that is cut still leaves a table."""

    path: Path
    ends: float
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    COLUMNS = ("what", "side", "s", "quartiles", "TFLOP/s", "MFU", "peak GB")

    def left(self) -> float:
        return self.ends - time.monotonic()

    def add(self, *cells: str) -> None:
        self.rows.append([*cells, *["-"] * (len(self.COLUMNS) - len(cells))])
        lines = [*self.head, "", _row(self.COLUMNS), _row(["---"] * len(self.COLUMNS))]
        self.path.write_text("\n".join([*lines, *map(_row, self.rows)]) + "\n")
        print(" | ".join(cells), flush=True)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    options = dict(a.split("=", 1) for a in sys.argv[1:])
    ends = time.monotonic() + float(options["seconds"])
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    said = {name: options[name] for name in ("size", "precision", "frames", "rounds")}
    head = [f"{device}; {versions}; {json.dumps(said)}", "", f"pytest -m gpu: {options['tested']}"]
    report = Report(Path(options["out"]), ends, head)
    training(report, options, PEAKS, device)
    sampling(report, options)
    print(f"written: {report.path}")


# -- training ------------------------------------------------------------------------------------------------
def training(report: Report, options: dict[str, str], peaks: dict[str, int], device: str) -> None:
    bench, held = Bench(options), {}
    before = _allocated()
    steps: dict[str, Callable[[], None]] = {}
    forward = {}
    for side, make in (("diffusers", bench.theirs), ("ours", bench.ours)):
        forward[side], steps[side] = make()
        held[side], before = _allocated() - before, _allocated()
    peak = next((value for name, value in peaks.items() if name in device), 0)
    most, rounds = int(options["most"]), int(options["rounds"])
    sides = [int(side) for side in options["latents"].split(",")]
    for side in sides:
        bench.shape(1, side)
        if side == sides[0]:
            _compare(bench, forward)
        one = _timed(report, bench, steps, held, rounds, peak, "1 clip")
        many = _most_that_fits(one, held, most)
        if many > 1:
            _largest(report, bench, steps, held, rounds, peak, many)
    bench.own.compile(backend=options["compile"])
    _compiled(report, bench, steps, held, rounds, peak, sides)
    del steps, forward, bench
    gc.collect()


def _compare(bench: Bench, forward: dict[str, Callable[[], torch.Tensor]]) -> None:
    with torch.no_grad():
        apart = float((forward["ours"]() - forward["diffusers"]()).abs().max())
    if apart > (TOLERANCE_BF16 if bench.autocast else TOLERANCE):
        raise SystemExit(f"outputs differ by {apart}: the sides do not compute the same, nothing is timed")


def _timed(
    report: Report,
    bench: Bench,
    steps: dict[str, Callable[[], None]],
    held: dict[str, int],
    rounds: int,
    peak: int,
    what: str,
) -> dict[str, int]:
    """A row for each side; returns the bytes that a step takes on top of what its side holds."""
    what = f"step, {bench.frames} x {8 * bench.side} px, {what}"
    if report.left() < 30:
        report.add(what, "-", "no time left")
        return {}
    taken = {side: _peak_of(step) for side, step in steps.items()}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for number in range(rounds):
        for side in list(steps)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            steps[side]()
            times[side].append(time.perf_counter() - began)
    with FlopCounterMode(display=False) as counter:
        steps["ours"]()
    flops = counter.get_total_flops()
    for side in SIDES:
        if side in steps:
            rate = flops / statistics.median(times[side]) / 1e12
            share = f"{rate / peak:.3f}" if peak else "-"
            memory = f"{(held[side] + taken[side]) / GB:.1f}" if torch.cuda.is_available() else "-"
            report.add(what, side, *_middle(times[side]), f"{rate:.2f}", share, memory)
    return taken


def _middle(times: list[float]) -> tuple[str, str]:
    low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
    return f"{statistics.median(times):.4f}", f"{low:.4f} to {high:.4f}"


def _most_that_fits(one: dict[str, int], held: dict[str, int], most: int) -> int:
    """Clips of which one takes what it took; both sides lie on the device."""
    if not torch.cuda.is_available():
        return most
    _, total = torch.cuda.mem_get_info()
    free = FREE_SHARE * total - sum(held.values())
    return min(most, int(free / max(one.values()))) if one else 0


def _largest(
    report: Report,
    bench: Bench,
    steps: dict[str, Callable[[], None]],
    held: dict[str, int],
    rounds: int,
    peak: int,
    many: int,
) -> None:
    """The largest batch of which a step of each side fits."""
    while many > 1:
        bench.shape(many, bench.side)
        try:
            _timed(report, bench, steps, held, max(1, rounds // 2), peak, f"{many} clips")
        except torch.OutOfMemoryError:
            gc.collect()
            torch.cuda.empty_cache()
            many = many * 3 // 4
        else:
            return


def _compiled(
    report: Report,
    bench: Bench,
    steps: dict[str, Callable[[], None]],
    held: dict[str, int],
    rounds: int,
    peak: int,
    sides: list[int],
) -> None:
    """Ours as ``trainer.compile=true`` has it; the first step compiles and is not timed."""
    for side in sides:
        bench.shape(1, side)
        what = "1 clip, compiled"
        if report.left() < 90:
            report.add(f"step, {bench.frames} x {8 * side} px, {what}", "ours", "no time left")
            continue
        _timed(report, bench, {"ours": steps["ours"]}, held, rounds, peak, what)


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _peak_of(step: Callable[[], None]) -> int:
    """Bytes that a step takes on top of what lies there; run twice, so that moments are there too."""
    step()
    if not torch.cuda.is_available():
        step()
        return 0
    torch.cuda.reset_peak_memory_stats()
    resting = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - resting


# -- sampling ------------------------------------------------------------------------------------------------
def sampling(report: Report, options: dict[str, str]) -> None:
    """One clip of the first size by ``vgen generate``'s sampler and by AnimateDiffPipeline."""
    frames, steps = int(options["frames"]), int(options["steps"])
    what = f"sampling, {frames} frames, {steps} steps, guidance 7.5"
    if report.left() < 45:
        report.add(what, "-", "no time left")
        return
    model = blank(Blank.SD15 if options["size"] == "sd15" else Blank.SD15_NARROW).freeze()
    px = 8 * max(8, int(options["latents"].split(",")[0]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if options["precision"] == "bf16" else torch.float32
    for side, make in (("diffusers", _theirs), ("ours", _ours)):
        draw = make(model, device, dtype, px, frames, steps)
        draw()
        times = []
        for _ in range(max(1, int(options["rounds"]) // 2)):
            began = time.perf_counter()
            draw()
            times.append(time.perf_counter() - began)
        report.add(f"{what}, {px} px", side, *_middle(times))


def _ours(
    model: object, device: str, dtype: torch.dtype, px: int, frames: int, steps: int
) -> Callable[[], None]:
    video = assemble(AnimateDiff(), model)
    video.to(device, dtype)
    asked = Sampling(num_frames=frames, num_steps=steps, guidance=7.5, width_px=px, height_px=px)

    def draw() -> None:
        generate(video, [Prompt("a dog that runs on a beach")], asked)
        _await()

    return draw


def _theirs(
    model: object, device: str, dtype: torch.dtype, px: int, frames: int, steps: int
) -> Callable[[], None]:
    knobs = {"num_attentions": 2, "num_blocks": 1, "heads": 8, "num_positions": 32}
    pipe = AnimateDiffPipeline(
        vae=model.vae,
        text_encoder=model.text_encoders[0],
        tokenizer=model.tokenizer,
        unet=model.unet,
        motion_adapter=MotionAdapter(**diffusers_motion.config(model.unet, knobs, False)),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
    ).to(device, dtype)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> None:
        size = {"width": px, "height": px, "num_frames": frames, "num_inference_steps": steps}
        pipe("a dog that runs on a beach", guidance_scale=7.5, output_type="pt", **size)
        _await()

    return draw


def _await() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
