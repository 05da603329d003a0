"""Which metrics there are. A new one is a function with ``@plugin`` in a file named in ``_FAMILIES``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.results import Scores
from vgen.metrics.learned.settings import Minimums
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Slot
from vgen.metrics.metric import Metric

_FAMILIES = ("clip_scores", "preference", "identity", "warp", "fidelity", "sets", "vbench", "vbench_package")
_PLUGINS: dict[str, Plugin] = {}


@dataclass(frozen=True, slots=True)
class Least:
    """A distance between sets asks for ``minimum``, a field of the settings' minimums, on both sides: clips,
    or frames of all clips."""

    minimum: str
    unit: str = "clips"

    def refusal(self, clips: Clips, minimums: Minimums) -> str | None:
        each = clips.num_frames if self.unit == "frames" else 1
        have = {"videos": clips.num * each, "references": len(clips.references or ()) * each}
        wanted = getattr(minimums, self.minimum)
        if self.unit == "frames" and min(clips.num, len(clips.references or ())) < 2:
            return "two clips a side, since frames of one clip are no independent samples"
        short = [f"{num} {self.unit} of {name}" for name, num in have.items() if num < wanted]
        return (
            f"{wanted} {self.unit} a side (learned.minimums.{self.minimum}), got {' and '.join(short)}"
            if short
            else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """``better``: "higher", "lower" or "" where neither is. ``needs``: the fields of Clips it reads beside
    the videos. ``ready`` raises Absent where something other than weights is missing."""

    metric: Metric
    source: str
    better: str
    needs: tuple[str, ...]
    slots: tuple[Slot, ...]
    min_frames: int
    least: Least | None
    ready: Callable[[Tools], None] | None
    compute: Callable[[Tools], Scores]

    def refusal(self, clips: Clips, minimums: Minimums) -> str | None:
        """Why these clips are too few or too short, or None."""
        if clips.num_frames < self.min_frames:
            return f"{self.metric.id} needs {self.min_frames} frames a clip, got {clips.num_frames}"
        why = self.least.refusal(clips, minimums) if self.least else None
        return f"{self.metric.id} needs {why}" if why else None


def plugin(
    metric: Metric,
    *,
    source: str,
    better: str = "higher",
    needs: Sequence[str] = (),
    slots: Sequence[Slot] = (),
    min_frames: int = 1,
    least: Least | None = None,
    ready: Callable[[Tools], None] | None = None,
) -> Callable[[Callable[[Tools], Scores]], Callable[[Tools], Scores]]:
    """Offer the decorated function as ``metric``."""

    def offer(compute: Callable[[Tools], Scores]) -> Callable[[Tools], Scores]:
        assert metric.id not in _PLUGINS, f"metric {metric.id} is offered twice"
        _PLUGINS[metric.id] = Plugin(
            metric=metric,
            source=source,
            better=better,
            needs=tuple(needs),
            slots=tuple(slots),
            min_frames=min_frames,
            least=least,
            ready=ready,
            compute=compute,
        )
        return compute

    return offer


def catalogue() -> dict[str, Plugin]:
    """Every metric by id, in the order of the guide."""
    for family in _FAMILIES:
        importlib.import_module(f"vgen.metrics.learned.{family}")
    return dict(_PLUGINS)


def find(names: Sequence[str]) -> list[Plugin]:
    """The plug-ins of these ids; ValueError names all that do not exist and lists those that do."""
    known = catalogue()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"there is no metric called {', '.join(unknown)}; those offered are {', '.join(known)}"
        )
    return [known[name] for name in names]
