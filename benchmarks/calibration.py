"""How far the oracle can be trusted: what it reads of the truth beyond the core world, damaged, and through
the image model's own decoder.

    python benchmarks/calibration.py n=64            # all tables; vae=false leaves the decoder out
    python benchmarks/calibration.py n=24 only=families rows=truth,decoder

Prints one line per row: n clips of 16 frames, and the share that is exact, with its 95 % interval. The tables
in vgen/metrics/selftest.py come from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from vgen.app.judging.scoreboard import H264, through_h264
from vgen.metrics.identity import identity
from vgen.metrics.kinds import text
from vgen.metrics.kinds.control import AskedControl, Control
from vgen.metrics.metric import Numbers
from vgen.metrics.pose import pose_fidelity
from vgen.metrics.scoring import score
from vgen.metrics.selftest import blurred, jpeg, noisy, self_test
from vgen.metrics.statistics import interval
from vgen.metrics.suite import Kind, Suite, tasks
from vgen.metrics.task import Task
from vgen.toybox.captions import caption
from vgen.toybox.oracle import read
from vgen.toybox.oracle.audit import audit, disagreements
from vgen.toybox.oracle.identicon import read_identicon
from vgen.toybox.oracle.pose import read_pose
from vgen.toybox.oracle.unmixing import COLOURS, PALETTE
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import Relation, Scene
from vgen.toybox.splits import Bucket

Alter = Callable[[np.ndarray], np.ndarray]
SEED = 4711


def scenes(family: Family, n: int, relation: Relation | None = None) -> Iterator[Scene]:
    i = found = 0
    while found < n:
        scene = replace(sample(rng_of(SEED, list(Family).index(family), i), family, Mix()), seed=i)
        i += 1
        if relation is None or scene.relation is relation:
            found += 1
            yield scene


def task_of(scene: Scene) -> Task:
    words = caption(scene, rng_of(SEED, scene.seed)).text
    return Task(
        id="x",
        caption=words,
        unspecified=(),
        scene=scene,
        seed=0,
        bucket=Bucket.IID,
        kind=text.KIND,
        group="x",
    )


def decoder() -> Alter:
    """uint8 f h w 3 through the toybox model's encoder and decoder."""
    from vgen.app.loading import TOYBOX, load_backbone

    model = load_backbone(TOYBOX)

    @torch.no_grad()
    def through(video: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(video).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
        out = model.decode(model.encode(pixels))[0]
        return ((out.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    return through


def shown(name: str, rows: list[Numbers], keys: tuple[str, ...]) -> None:
    cells = []
    for key in keys:
        found = interval([row.get(key) for row in rows])
        cells.append(
            "-" if found.mean is None else f"{key} {found.mean:.3f} [{found.low:.2f}, {found.high:.2f}]"
        )
    print(f"{name:34} n {len(rows):4}  {'   '.join(cells)}", flush=True)


def families(n: int, alters: dict[str, Alter]) -> None:
    """Facts beyond the core world."""
    wanted = {
        "core": (Family.CORE, None),
        "three or four things": (Family.MANY, None),
        "textured ground": (Family.TEXTURE, None),
        "above": (Family.RELATION, Relation.ABOVE),
        "left of": (Family.RELATION, Relation.LEFT_OF),
    }
    for family, (kind, relation) in wanted.items():
        read_as(family, [task_of(s) for s in scenes(kind, n, relation)], alters)


def occlusion(n: int, alters: dict[str, Alter]) -> None:
    """One thing half behind another."""
    read_as("in front of", [task_of(s) for s in scenes(Family.RELATION, n, Relation.IN_FRONT_OF)], alters)


def read_as(family: str, todo: list[Task], alters: dict[str, Alter]) -> None:
    for name, alter in alters.items():
        rows = [score(alter(render(t.scene).video), t) for t in todo]
        shown(
            f"{family}, {name}",
            rows,
            ("exact", "colour", "shape", "size", "motion", "count", "ground", "rel"),
        )


def figures(n: int, alters: dict[str, Alter]) -> None:
    todo = list(scenes(Family.PUPPET, n))
    for name, alter in alters.items():
        rows = []
        for scene in todo:
            drawn, thing = render(scene), scene.things[0]
            seen = read_pose(alter(drawn.video))
            right = {
                "clothes": float(seen.clothes == (thing.colour, thing.second)),
                "action": float(seen.action is thing.action),
            }
            rows.append(pose_fidelity(seen.joints, drawn.keypoints[0]) | right)
        shown(f"puppet, {name}", rows, ("pck", "pck_moving", "mpjpe", "clothes", "action"))


def sprites(n: int, alters: dict[str, Alter]) -> None:
    todo = list(scenes(Family.IDENTICON, n))
    for name, alter in alters.items():
        rows = []
        for scene in todo:
            thing = scene.things[0]
            rows.append(
                identity(read_identicon(alter(render(scene).video), (thing.colour, thing.second)), thing.code)
            )
        shown(f"identicon, {name}", rows, ("bitacc", "id_exact", "verification", "id_cons"))


def readers(n: int, alters: dict[str, Alter]) -> None:
    """Agreement of the two readers."""
    todo = tasks(Suite(iid=n, pair=0, triple=0, extrapolation=n // 4, paraphrase=0))
    for name, alter in alters.items():
        found = [disagreements(read(v), audit(v)) for v in (alter(render(t.scene).video) for t in todo)]
        shown(f"readers, {name}", [{"agree": float(not d)} for d in found], ("agree",))
        for task, apart in zip(todo, found, strict=True):
            for d in apart:
                print(f"    {task.id}: {d.what}: {d.first} | {d.second}")


def controls(n: int, alters: dict[str, Alter]) -> None:
    """What the self-test's damage, defects and tricks score: facts, paths and steadiness side by side."""
    todo = tasks(
        Suite(
            kind=Kind.CONTROL,
            control=AskedControl(control=Control.MASK),
            iid=n,
            pair=0,
            triple=0,
            extrapolation=0,
            paraphrase=0,
        )
    )
    for name, rows in self_test(todo, more={H264: through_h264}).items():
        shown(
            name,
            rows,
            (
                "exact",
                "motion_moving",
                "perm",
                "ade",
                "jerk",
                "area_cv",
                "mcres",
                "bgflick",
                "pixel_agreement",
                "tc",
            ),
        )


def drift(n: int, alters: dict[str, Alter]) -> None:
    """How far a decoder moves colours, against the distance of the nearest two."""
    closest = min(float(np.linalg.norm(a - b)) for i, a in enumerate(PALETTE) for b in PALETTE[:i])
    todo = list(scenes(Family.CORE, n))
    for name, alter in alters.items():
        moved: dict[str, list[float]] = {}
        for scene in todo:
            drawn = render(replace(scene, cues=False, num_frames=4, stride_ticks=4))
            video = alter(drawn.video).astype(float) / 255
            for i, thing in enumerate(scene.things):
                inner = drawn.masks[:, i] > 0.99
                truth = PALETTE[COLOURS.index(thing.colour)]
                moved.setdefault(thing.colour.value, []).append(
                    float(np.linalg.norm(np.median(video[inner], 0) - truth))
                )
        cells = "  ".join(f"{c} {np.mean(v):.3f}" for c, v in sorted(moved.items()))
        print(
            f"{'colour drift, ' + name:34} n {n:4}  {cells}  (nearest two colours {closest:.2f} apart)",
            flush=True,
        )


TABLES = {
    "controls": controls,
    "families": families,
    "occlusion": occlusion,
    "figures": figures,
    "sprites": sprites,
    "readers": readers,
    "drift": drift,
}


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    n, only = int(options.get("n", 64)), options.get("only", "")
    rng = np.random.default_rng(0)
    alters: dict[str, Alter] = {
        "truth": lambda v: v,
        "blur 1 px": blurred,
        "noise .05": lambda v: noisy(v, rng),
        "jpeg q75": lambda v: jpeg(v, 75),
        "jpeg q30": jpeg,
    }
    if options.get("vae", "true") == "true":
        alters["decoder"] = decoder()
    if "rows" in options:
        alters = {name: alters[name] for name in options["rows"].split(",")}
    if unknown := set(options) - {"n", "only", "vae", "rows"} or {only} - {"", *TABLES}:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; n=, vae=, rows=, only={'|'.join(TABLES)}")
    for name, table in TABLES.items():
        if only in ("", name):
            table(n, alters)


if __name__ == "__main__":
    main()
