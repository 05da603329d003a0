"""What ``vgen plan`` prints, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vgen.training.footprint import CARDS_GB, HELD_BACK, Footprint, is_held, most_clips
from vgen.training.foretold import Step, StepCounts
from vgen.training.probe import Probed
from vgen.training.scaling import Network, efficiency
from vgen.training.strategies import Spread

GB = 1e9
LABEL, CELL = 30, 7
"""Columns of a row's name and of each figure behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan. ``peaks`` by gradient checkpointing and clips a batch, none for a CPU; ``sent`` bytes a step by
    the number of GPUs."""

    title: str
    step: Step
    counts: StepCounts
    footprint: Footprint
    peaks: dict[bool, dict[int, int]]
    sent: dict[int, int]
    network: Network
    probed: Probed | None


def shown(found: Planned) -> str:
    return "\n".join([*_head(found), "", *_memory(found), *_cards(found), "", *_time(found)])


def _head(found: Planned) -> list[str]:
    settings, clips = found.step.settings, found.step.clips
    where = "GPU" if found.step.on_gpu else "CPU process"
    frames = f"{clips.num_frames} frame{'s' * (clips.num_frames != 1)}"
    saves = "gradient checkpointing" if settings.gradient_checkpointing else "no gradient checkpointing"
    return [
        f"plan: {found.title}",
        f"{clips.num_clips} x {frames} of {clips.width_px} x {clips.height_px} px for each {where}"
        f"{', from a latent cache' * clips.cached}",
        f"{settings.world_size} x {settings.strategy.value}, {settings.precision.value}, {saves}, "
        f"accumulate {settings.accumulate}",
    ]


def _memory(found: Planned) -> list[str]:
    rows = {name: size for name, size in found.footprint.rows.items() if size}
    lines = [row(f"each {'GPU' if found.step.on_gpu else 'process'} holds", ["GB"])]
    lines += [row(f"  {name}", [_gb(size)]) for name, size in rows.items()]
    return [*lines, row("  at the peak", [_gb(found.footprint.peak)])]


def _cards(found: Planned) -> list[str]:
    if not found.peaks:
        return []
    peak = found.footprint.peak
    lines = ["", row("which GPU do I need (GB)", [str(card) for card in CARDS_GB])]
    lines.append(row("  as it is set", ["yes" if is_held(peak, card) else "no" for card in CARDS_GB]))
    for saves, peaks in found.peaks.items():
        label = "  most clips, checkpointing" if saves else "  most clips, without"
        lines.append(row(label, [str(most_clips(peaks, card)) for card in CARDS_GB]))
    return [
        *lines,
        f"Foretold from shapes, not measured on a GPU; {HELD_BACK / GB:g} GB of a card are left to",
        "the CUDA context, kernels and gaps.",
    ]


def _time(found: Planned) -> list[str]:
    """A step's time where it was probed, or assumed; and what is lost among many."""
    settings, network = found.step.settings, found.network
    flops = settings.accumulate * found.counts.flops
    if found.probed is not None:
        seconds = settings.accumulate * found.probed.seconds
        lines = [f"a step takes {seconds:.3g} s here, by a probe of one process"]
    else:
        seconds = network.compute_seconds(flops)
        lines = [
            f"a step is {flops / 1e12:,.1f} TFLOP on each {'GPU' if found.step.on_gpu else 'process'}; "
            "its time is not promised: probe=true",
        ]
    if found.probed is not None and found.probed.peak is not None:
        lines.append(f"a GPU held {_gb(found.probed.peak)} GB at the peak of the probe, which is one process")
    if settings.strategy is Spread.SINGLE or not found.step.on_gpu:
        return lines
    return [*lines, *_scaling(found, seconds)]


def _scaling(found: Planned, seconds: float) -> list[str]:
    network = found.network
    kept = [efficiency(network, seconds, num_bytes, num) for num, num_bytes in found.sent.items()]
    took = f"{seconds:.3g} s a step"
    if found.probed is None:
        took += f" ({network.tflops:g} TFLOP/s at {network.utilisation:.0%})"
    return [
        row("GPUs", [str(num) for num in found.sent]),
        row("  each sends, GB a step", [_gb(size) for size in found.sent.values()]),
        row("  efficiency, simulated", [f"{share:.0%}" for share in kept]),
        f"Assumed: {took}; {network.node_gb_s:g} GB/s in a node of {network.gpus_per_node},",
        f"{network.network_gb_s:g} GB/s between nodes, {network.latency_us:g} us latency, "
        f"{network.overlap:.0%} of backward hides sending,",
        f"steps vary by {network.jitter:.0%} (keys network.*).",
    ]


def row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.2f}"
