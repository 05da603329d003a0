"""The one entry: names of metrics and clips in, results with manifests out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from vgen.metrics.learned.clips import Clips
from vgen.metrics.learned.registry import Plugin, catalogue, find
from vgen.metrics.learned.results import Manifest, Result, Scores
from vgen.metrics.learned.settings import LearnedMetrics
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.weights import Absent


def measure(
    names: Sequence[str] | None, clips: Clips, settings: LearnedMetrics | None = None
) -> dict[str, Result]:
    """Each named metric of ``clips`` (None: all there are). A metric whose weights or inputs are absent is
    ``skipped`` with the reason; ValueError, before any network runs, for unknown names, weights that are not
    the declared ones, and too few clips (all are listed)."""
    plugins = find(list(catalogue()) if names is None else list(dict.fromkeys(names)))
    tools = Tools(settings or LearnedMetrics(), clips)
    skipped = {plugin.metric.id: _obstacle(plugin, tools) for plugin in plugins}
    refusals = [
        r
        for p in plugins
        if skipped[p.metric.id] is None and (r := p.refusal(clips, tools.settings.minimums))
    ]
    if refusals:
        raise ValueError("; ".join(refusals) + "; give more, or leave these metrics out")
    return {
        p.metric.id: Result(skipped=why) if (why := skipped[p.metric.id]) else _measured(p, tools)
        for p in plugins
    }


def _obstacle(plugin: Plugin, tools: Tools) -> str | None:
    """Why ``plugin`` is skipped, or None."""
    missing = [name for name in plugin.needs if getattr(tools.clips, name) is None]
    if missing:
        return f"{plugin.metric.id} compares with {' and '.join(missing)}, which were not given"
    try:
        for slot in plugin.slots:
            tools.located(slot)
        if plugin.ready is not None:
            plugin.ready(tools)
    except Absent as why:
        return f"{plugin.metric.id}: {why}"
    return None


def _measured(plugin: Plugin, tools: Tools) -> Result:
    scores = plugin.compute(tools)
    per_clip = None if scores.per_clip is None else [None if v is None else float(v) for v in scores.per_clip]
    value = _mean(per_clip) if per_clip is not None else scores.value
    if value is None:
        return Result(
            skipped=f"{plugin.metric.id} has nothing to measure in any of these clips",
            per_clip=per_clip,
            notes=scores.notes,
        )
    if not np.isfinite(value):
        raise ValueError(
            f"{plugin.metric.id} must be a finite number, got {value}; its weights do not fit its input"
        )
    return Result(
        value=value, per_clip=per_clip, notes=scores.notes, manifest=_manifest(plugin, tools, scores)
    )


def _mean(values: list[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return float(np.mean(there)) if there else None


def _manifest(plugin: Plugin, tools: Tools, scores: Scores) -> Manifest:
    import torch

    clips, fields = tools.clips, plugin.needs + scores.read
    return Manifest(
        id=plugin.metric.id,
        version=plugin.metric.version,
        weights={slot.name: tools.located(slot).sha256 for slot in plugin.slots},
        n=clips.num,
        frames=clips.num_frames,
        size=list(clips.size_px),
        resize=scores.resize,
        codec=clips.codec,
        seed=clips.seed,
        options=scores.options,
        task=tools.once(("task", fields), lambda: clips.digest(fields)),
        videos=tools.once(("videos",), lambda: clips.digest(["videos"])),
        software={
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "device": tools.settings.device,
        },
    )
