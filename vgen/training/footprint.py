"""What a training takes on each GPU under a strategy, what it sends, and which cards hold it.

Sums of what :mod:`vgen.training.foretold` counts on one device. Gigabytes are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from vgen.training.foretold import StepCounts
from vgen.training.strategies import Precision, Spread, TrainerSettings

CARDS_GB = (12, 16, 24, 40, 48, 80, 141)
"""Sizes that cards are sold in."""
HELD_BACK = 1_500_000_000
"""Bytes of a card that are left to the CUDA context, to what kernels take while they run and to gaps between
tensors: an assumption."""
BUCKET = 200_000_000
"""Gradients that DeepSpeed sends together (Lightning's ``reduce_bucket_size``); ZeRO-2 has two such buckets
(``overlap_comm``), ZeRO-3 one."""
MOST_GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 keeps whole (``stage3_max_live_parameters``)."""
FP32 = 4
MOST_CLIPS = 1024


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on one device by what holds them."""

    rows: dict[str, int]

    @property
    def peak(self) -> int:
        return sum(self.rows.values())


def footprint(counts: StepCounts, settings: TrainerSettings, num_devices: int) -> Footprint:
    """Of every one of ``num_devices``. StepCounts are those of the same settings."""
    if settings.strategy is Spread.ZERO1:
        return Footprint(_zero1(counts, settings, num_devices))
    if settings.strategy is Spread.ZERO2:
        return Footprint(_zero2(counts, settings, num_devices))
    if settings.strategy is Spread.ZERO3:
        return Footprint(_zero3(counts, settings, num_devices))
    rows = {
        "frozen weights": counts.frozen,
        "learning weights": counts.learning,
        "gradients": counts.gradients,
        "moments": counts.moments,
        "averages (EMA)": counts.averages,
        "activations": counts.activations + counts.batch,
    }
    return Footprint(rows)


def _zero1(counts: StepCounts, settings: TrainerSettings, num_devices: int) -> dict[str, int]:
    """The same with whole gradients."""
    rows = _zero2(counts, settings, num_devices)
    del rows["gradients, own part"]
    return rows | {"gradients": width_of(settings) * counts.num_learning}


def _zero2(counts: StepCounts, settings: TrainerSettings, num_devices: int) -> dict[str, int]:
    """Rajbhandari et al. 2020, section 5: gradients and what the optimiser keeps in parts, weights whole."""
    width = width_of(settings)
    own = _own(counts, num_devices)
    return {
        "frozen weights": counts.frozen,
        "learning weights": counts.learning,
        "their fp32 copy, own part": FP32 * own,
        "gradients, own part": width * own,
        "gradients on their way": 2 * BUCKET * width,
        "moments, own part": 2 * FP32 * own,
        "averages (EMA)": FP32 * counts.num_learning,
        "activations": counts.activations,
    }


def _zero3(counts: StepCounts, settings: TrainerSettings, num_devices: int) -> dict[str, int]:
    """The same, and the weights of the nets that learn in parts, gathered as they are needed."""
    width = width_of(settings)
    own, gathered = _own(counts, num_devices), min(counts.num_sharded, MOST_GATHERED)
    return {
        "frozen weights elsewhere": counts.frozen - counts.frozen_sharded,
        "weights, own part": (counts.frozen_sharded + counts.learning) // num_devices,
        "weights, gathered": width * gathered if num_devices > 1 else 0,
        "their fp32 copy, own part": FP32 * own,
        "gradients, own part": width * own,
        "gradients on their way": BUCKET * width,
        "moments, own part": 2 * FP32 * own,
        "averages (EMA), own part": FP32 * own,
        "activations": counts.activations,
    }


def _own(counts: StepCounts, num_devices: int) -> int:
    """Learning parameters of one device's part."""
    return -(-counts.num_learning // num_devices)


def width_of(settings: TrainerSettings) -> int:
    """Bytes of a weight where DeepSpeed holds it whole."""
    return FP32 if settings.precision is Precision.FP32 else FP32 // 2


def bytes_sent(counts: StepCounts, settings: TrainerSettings, num_devices: int) -> int:
    """By one device for one optimiser step, in rings: a sum over all is sent twice, once as parts and once
    as wholes (Patarasuk and Yuan 2009).

    DDP sums fp32 gradients at a step's end. ZeRO-1 hands the parts of gradients over then, and weights after
    the step. ZeRO-2 hands the parts of gradients over after every batch that
    is accumulated, and weights after the step. ZeRO-3 gathers weights for every batch, again for backward
    where they are more than it keeps, and hands gradients over as ZeRO-2 does.
    """
    width, batches, num = width_of(settings), settings.accumulate, counts.num_learning
    match settings.strategy:
        case Spread.ZERO1:
            whole = 2 * width * num
        case Spread.ZERO2:
            whole = width * num * (batches + 1)
        case Spread.ZERO3:
            gatherings = 1 + (counts.num_sharded > MOST_GATHERED)
            whole = batches * width * (gatherings * counts.num_sharded + num)
        case _:
            whole = 2 * FP32 * num
    return whole * (num_devices - 1) // num_devices


def is_held(peak: int, card_gb: int) -> bool:
    """Whether a card of so many gigabytes holds it."""
    return peak + HELD_BACK <= card_gb * 10**9


def most_clips(peaks: Mapping[int, int], card_gb: int) -> int:
    """The largest batch that a card holds; 0: none.

    ``peaks`` are those of three batches or more, by their size: between two it is a straight line, and
    beyond the last the line of the last two.
    """
    fits = 0
    for num_clips in range(1, MOST_CLIPS + 1):
        if not is_held(_between(peaks, num_clips), card_gb):
            break
        fits = num_clips
    return fits


def _between(peaks: Mapping[int, int], num_clips: int) -> int:
    if num_clips in peaks:
        return peaks[num_clips]
    known = sorted(peaks)
    low, high = known[-2:]
    for left, right in pairwise(known):
        if left < num_clips < right:
            low, high = left, right
    slope = (peaks[high] - peaks[low]) / (high - low)
    return round(peaks[low] + slope * (num_clips - low))
