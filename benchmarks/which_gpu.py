"""Which GPU a training needs, as tables for docs/guides/scale.md: systems by strategies.

    python benchmarks/which_gpu.py [part=memory|sent] [only=NAME]

Everything is foretold from shapes; nothing is measured on a GPU. The memory of a row is computed on tensors
without values, so that a CPU is enough: about ten seconds a cell at Stable Diffusion's size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import vgen.app  # noqa: F401  # before torch is loaded: threads that wait sleep
from vgen.backbones.blank import Blank, blank
from vgen.methods import Recipe, catalogue
from vgen.training.footprint import CARDS_GB, bytes_sent, footprint, is_held
from vgen.training.foretold import ClipShape, Step, counts_of
from vgen.training.optimisation import Optimisation
from vgen.training.scaling import Network, efficiency
from vgen.training.strategies import Precision, Spread, TrainerSettings

STRATEGIES = {Spread.SINGLE: 1, Spread.DDP: 8, Spread.ZERO2: 8, Spread.ZERO3: 8}
MANY = (8, 64, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row: a method on shapes, and clips of one GPU."""

    label: str
    recipe: Callable[[], Recipe]
    size: Blank
    num_frames: int
    side_px: int
    num_clips: int = 1

    def step(self, strategy: Spread, saves: bool) -> Step:
        settings = TrainerSettings(
            strategy=strategy,
            devices=STRATEGIES[strategy],
            precision=Precision.BF16,
            gradient_checkpointing=saves,
        )
        return Step(
            recipe=self.recipe(),
            model=partial(blank, self.size),
            optimisation=Optimisation(),
            settings=settings,
            clips=ClipShape(
                num_clips=self.num_clips,
                num_frames=self.num_frames,
                height_px=self.side_px,
                width_px=self.side_px,
            ),
            on_gpu=True,
        )


NAMES = {Blank.SD15: "SD 1.5", Blank.SD21: "SD 2.1", Blank.SDXL: "SDXL"}
SIDES = {Blank.SD15: 512, Blank.SD21: 768, Blank.SDXL: 1024}
KINDS = {"animatediff": ("motion module", 16), "control_net": ("ControlNet", 1), "lora": ("LoRA", 1)}
POSES = {"follow_your_pose_encoder": 1, "follow_your_pose": 8, "control_a_video": 8}


def systems() -> list[System]:
    out = []
    for name, (kind, num_frames) in KINDS.items():
        for size, label in NAMES.items():
            side = 512 if num_frames > 1 else SIDES[size]
            said = f"{kind}, {label}, {num_frames} x {side} px"
            out.append(_system(said, name, size, num_frames, side))
    for name, num_frames in POSES.items():
        out.append(_system(f"`{name}`, SD 1.5, {num_frames} x 512 px", name, Blank.SD15, num_frames, 512))
    return out


def _system(label: str, name: str, size: Blank, num_frames: int, side: int) -> System:
    return System(label=label, recipe=catalogue()[name], size=size, num_frames=num_frames, side_px=side)


def memory(system: System) -> str:
    cells = [system.label]
    for strategy, num in STRATEGIES.items():
        peaks = []
        for saves in (True, False):
            step = system.step(strategy, saves)
            peaks.append(footprint(counts_of(step), step.settings, num).peak)
        cells.append(" / ".join(map(_held_by, peaks)))
        print(f"{system.label}: {strategy.value}", file=sys.stderr, flush=True)
    return _row(cells)


def _held_by(peak: int) -> str:
    card = next((str(card) for card in CARDS_GB if is_held(peak, card)), "none")
    return f"{peak / 1e9:.1f} ({card})"


def sent(system: System) -> str:
    """Gigabytes that one of 8 GPUs sends for a step, and what each of many keeps of its speed."""
    network, cells = Network(), [system.label]
    whole = counts_of(system.step(Spread.DDP, True))
    seconds = network.compute_seconds(whole.flops)
    cells.append(f"{whole.flops / 1e12:.0f}")
    for strategy in (Spread.DDP, Spread.ZERO2, Spread.ZERO3):
        step = system.step(strategy, True)
        many = {num: bytes_sent(whole, step.settings, num) for num in MANY}
        kept = " ".join(f"{efficiency(network, seconds, size, num):.0%}" for num, size in many.items())
        cells.append(f"{many[8] / 1e9:.2f}: {kept}")
    return _row(cells)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    part, only = options.get("part", "memory"), options.get("only", "")
    head = ["", *(f"{num} x {one.value}" for one, num in STRATEGIES.items())]
    if part == "sent":
        head = ["", "TFLOP a step", *(one.value for one in STRATEGIES if one is not Spread.SINGLE)]
    print(_row(head))
    print(_row(["---"] * len(head)))
    for system in systems():
        if only in system.label:
            print(memory(system) if part == "memory" else sent(system), flush=True)


if __name__ == "__main__":
    main()
