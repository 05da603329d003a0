"""The report: one page that needs nothing but itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vgen.app.clip_store import ClipStore, truth
from vgen.app.scoreboard import Row
from vgen.data.clip_files import enlarged
from vgen.data.files import write_whole
from vgen.data.mp4 import encode_mp4
from vgen.metrics.metric import Numbers
from vgen.metrics.text_accuracy import FEWEST_RIGHT_COUNTS
from vgen.spec import spec

CHIPS = ("colour", "shape", "size", "motion", "speed", "count", "ground", "coherence")
COLUMNS = ("exact", "exact_without_speed", "colour", "shape", "size", "motion_moving", "speed", "count", "ground", "tc", "coherence")
STILL_COLUMNS = ("exact_image", "colour", "shape", "size", "count", "ground")
TITLES = {
    "exact": ("EXACT", "everything the caption says is true of the clip"),
    "motion_moving": ("Motion", "things that should move go where the caption says"),
    "coherence": ("Coherence", "neighbouring frames show the same things; a frozen clip does too, so read it beside motion"),
    "exact_image": ("EXACT", "everything the caption says of a still is true"),
}
_STEADY = 0.9  # coherence below this earns a red chip


@spec
class PageSettings:
    """``max_clips`` rows go into the gallery: a fixed probe set, then the worst; ``fps`` is that of a clip at stride 1."""

    max_clips: int = 64
    fps: float = 12.0
    least_px: int = 192

    def __post_init__(self) -> None:
        if self.max_clips < 0 or self.fps <= 0 or self.least_px < 1:
            raise ValueError(f"page needs max_clips >= 0, fps > 0 and least_px >= 1, got {self.max_clips}, {self.fps} and {self.least_px}")


def write_page(
    store: ClipStore, rows: Sequence[Row], found: dict[str, Any], manifest: dict[str, Any], settings: PageSettings, stride_ticks: int
) -> None:
    """``report.html`` beside the numbers that it shows."""
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row.task.id, []).append(row)
    shown = gallery_order(list(by_task.values()), settings.max_clips)
    fps = max(2.0, settings.fps / stride_ticks)
    still = found["headlines"] == ["exact_image"]
    environment = Environment(
        loader=PackageLoader("vgen.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html").render(
        found=found,
        titles=TITLES,
        names=list(found["checkpoints"]),
        columns=STILL_COLUMNS if still else COLUMNS,
        chips=CHIPS[:3] + CHIPS[5:7] if still else CHIPS,
        buckets=list(dict.fromkeys(row.task.bucket.value for row in rows)),
        cards=[_card(store, group, fps, settings.least_px) for group in shown],
        num_tasks=len(by_task),
        manifest=json.dumps({**manifest, "metrics": found["metrics"]}, indent=1),
        frames=shown[0][0].task.scene.num_frames if shown else 0,
    )
    write_whole(store.folder / "report.html", html.encode())


def gallery_order(groups: Sequence[list[Row]], most: int) -> list[list[Row]]:
    """A third is the probe set, the first tasks of each bucket in turn, the same in every report; the rest is worst first."""
    turns: dict[str, list[list[Row]]] = {}
    for group in groups:
        turns.setdefault(group[0].task.bucket.value, []).append(group)
    in_turn = [mine[i] for i in range(max(map(len, turns.values()), default=0)) for mine in turns.values() if i < len(mine)]
    probes = in_turn[: most if most >= len(groups) else -(-most // 3)]
    taken = {group[0].task.id for group in probes}
    rest = sorted((g for g in groups if g[0].task.id not in taken), key=lambda g: sum(_merit(row.numbers) for row in g))
    return [*probes, *rest[: most - len(probes)]]


def _merit(numbers: Numbers) -> float:
    marks = [v for k in CHIPS if (v := numbers.get(k)) is not None]
    return (numbers.get("exact") or numbers.get("exact_image") or 0.0) + sum(marks) / max(1, len(marks))


def _card(store: ClipStore, group: list[Row], fps: float, least_px: int) -> dict[str, Any]:
    task = group[0].task
    clips = {row.checkpoint: store.read(row.checkpoint, task) for row in group}
    side = next(iter(clips.values())).shape[1]
    takes = [{"name": "truth", "src": _data(truth(task, side), fps, least_px), "chips": {}, "exact": None}]
    for row in group:
        exact = row.numbers.get("exact", row.numbers.get("exact_image"))
        chips = {k: passed(k, v) for k in CHIPS if (v := row.numbers.get(k)) is not None}
        takes.append({"name": row.checkpoint, "src": _data(clips[row.checkpoint], fps, least_px), "chips": chips, "exact": exact})
    failing = sorted({k for take in takes for k, ok in take["chips"].items() if not ok})
    return {"id": task.id, "bucket": task.bucket.value, "caption": task.caption, "takes": takes, "failing": " ".join(failing)}


def passed(attribute: str, value: float) -> bool:
    """Whether a chip is green."""
    least = {"count": FEWEST_RIGHT_COUNTS, "coherence": _STEADY}.get(attribute, 1.0)
    return value >= least


def _data(video: Any, fps: float, least_px: int) -> str:
    shown = enlarged(video, least_px)
    return "data:video/mp4;base64," + base64.b64encode(encode_mp4(shown, fps, crf=16)).decode()
