"""Diversity: one caption, many noises. What the caption leaves open must vary as much as it does in the
world, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from vgen.metrics import sets as _sets
from vgen.metrics.kinds import text
from vgen.metrics.kinds.asked import Asked, refuse_buckets, refuse_none
from vgen.metrics.kinds.scenes import Stream, scene_of, timed
from vgen.metrics.kinds.text import score_text
from vgen.metrics.matching import match
from vgen.metrics.metric import Numbers
from vgen.metrics.sets import (
    FEWEST_FOR_FRECHET,
    class_entropy,
    duplicates,
    energy_distance,
    energy_p,
    energy_resampled,
    frechet,
    memorisation,
    mmd2_resampled,
    nearest,
    vendi,
)
from vgen.metrics.states import STATE, scene_states, seen_states
from vgen.metrics.statistics import Resampled, average
from vgen.metrics.task import Recall, Task, TaskKind
from vgen.spec import spec
from vgen.toybox.captions import caption
from vgen.toybox.oracle import Facts, read
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Mix, redraw, rng_of
from vgen.toybox.scenes import CORE_MOTIONS, SOLIDS, SPEED, Colour, Motion, Scene, Shape, Size
from vgen.toybox.splits import Bucket, bucket_weights, class_weights

if TYPE_CHECKING:
    from vgen.metrics.suite import Suite

OPEN = ("size", "speed", "ground")
_PLACES = 9  # of the twelve numbers of a state: colour is asked for
_CLASSES: dict[str, Sequence[object]] = {
    "size": list(Size), "speed": list(SPEED), "ground": list(SOLIDS), "motion": list(CORE_MOTIONS),
}  # fmt: skip


def score_state(video: np.ndarray, task: Task, facts: Facts | None = None) -> Numbers:
    """The row of a text task, the clip as a point (``state_*``), and the class of each open factor by number
    (``class_*``)."""
    facts = facts or read(video, task.scene.stride_ticks)
    out = score_text(video, task, facts)
    out |= {
        f"state_{name}": float(v) for name, v in zip(STATE, seen_states(facts, task.scene)[0], strict=True)
    }
    seen = match(facts, task.scene)[0][1]
    read_as = {
        "size": seen and seen.size,
        "speed": seen and seen.speed,
        "ground": facts.ground,
        "motion": seen and seen.motion,
    }
    for factor in _CLASSES:
        known = factor in _open(task) and read_as[factor] in _CLASSES[factor]
        out[f"class_{factor}"] = float(_CLASSES[factor].index(read_as[factor])) if known else None
    return out


def _open(task: Task) -> tuple[str, ...]:
    """What clips of this prompt may differ in: a thing that the caption leaves still has no speed."""
    still = task.scene.things[0].motion is Motion.STATIC and "motion" not in task.unspecified
    return tuple(f for f in task.unspecified if not (f == "speed" and still))


def score_prompts(rows: Sequence[tuple[Task, Numbers]]) -> dict[str, Resampled]:
    """Means over prompts: ``energy`` to as many clips of the world (0 is right, unbiased), ``energy_ok``
    share of prompts at which they cannot be told apart (p >= .05), ``vendi_ratio`` (1 is right), ``dup``,
    ``entropy_*`` of open factors. Over all clips at once, on all twelve numbers of a state: ``set_energy``
    and ``set_mmd2`` (unbiased, 0 is right), ``set_frechet`` of 1,024 clips and more; ``mem`` of rows that say
    how near they are to training scenes: 1 is right, below .5 they are recalled. Prompts are resampled whole:
    in a resample of noises each clip that is drawn twice would be a copy to ``dup`` and one mode less to
    ``vendi_ratio``."""
    prompts: dict[str, list[tuple[Task, Numbers]]] = {}
    for task, numbers in rows:
        prompts.setdefault(task.group, []).append((task, numbers))
    found = [_prompt(members) for members in prompts.values() if len(members) > 1]
    named = {key: average([f.get(key) for f in found]) for key in dict.fromkeys(k for f in found for k in f)}
    return {key: number for key, number in named.items() if number is not None} | _all_prompts(rows)


def _prompt(members: Sequence[tuple[Task, Numbers]]) -> Numbers:
    made = np.array([[numbers[f"state_{name}"] for name in STATE] for _, numbers in members], float)[
        :, :_PLACES
    ]
    task = members[0][0]
    rng = rng_of(task.seed, 2)
    world = np.array([scene_states(_another(rng, task.scene, task.unspecified))[0] for _ in members])[
        :, :_PLACES
    ]
    p = energy_p(made, world, 200)
    out: Numbers = {
        "energy": energy_distance(made, world),
        "energy_p": p,
        "energy_ok": float(p >= 0.05),
        "vendi_ratio": vendi(made) / vendi(world),
        "dup": duplicates(made),
    }
    for factor in _open(task):
        out[f"entropy_{factor}"] = class_entropy(
            [numbers[f"class_{factor}"] for _, numbers in members], len(_CLASSES[factor])
        )
    return out


def _all_prompts(rows: Sequence[tuple[Task, Numbers]]) -> dict[str, Resampled]:
    """O7, against one clip of the world for each."""
    if len(rows) < 2:
        return {}
    made, world, prompts = _made(rows), _world(rows), [task.group for task, _ in rows]
    out = {
        "set_energy": energy_resampled(made, world, prompts),
        "set_mmd2": mmd2_resampled(made, world, prompts),
    }
    if len(rows) >= FEWEST_FOR_FRECHET:
        out["set_frechet"] = Resampled(
            frechet(made, world), None, len(rows)
        )  # biased by n, and more so in any resample
    if "taught" in rows[0][1]:
        near, near_world = (
            np.array([numbers[key] for _, numbers in rows], float) for key in ("taught", "taught_world")
        )
        out["mem"] = memorisation(near, near_world, prompts)
    return out


def _made(rows: Sequence[tuple[Task, Numbers]]) -> np.ndarray:
    return np.array([[numbers[f"state_{name}"] for name in STATE] for _, numbers in rows], float)


def _world(rows: Sequence[tuple[Task, Numbers]]) -> np.ndarray:
    """One clip of the world for each."""
    return np.array(
        [scene_states(_another(rng_of(task.seed, 3), task.scene, task.unspecified))[0] for task, _ in rows]
    )


def nearest_taught(rows: Sequence[tuple[Task, Numbers]], taught: Sequence[Scene]) -> list[Numbers]:
    """How far the clip, and another clip of the world, are from the nearest thing of the training scenes, on
    all twelve numbers of a state (``taught``, ``taught_world``). Scenes are looked at over the frames of the
    suite."""
    states = np.concatenate([scene_states(scene) for scene in _timed_alike(taught, rows[0][0].scene)])
    near = [nearest(points, states) for points in (_made(rows), _world(rows))]
    return [{"taught": float(made), "taught_world": float(world)} for made, world in zip(*near, strict=True)]


def taught_copies(todo: Sequence[Task], taught: Sequence[Scene], size_px: int) -> list[np.ndarray]:
    """For each task the training clip that has the thing nearest to the one asked for: what a retriever
    makes."""
    scenes = _timed_alike(taught, todo[0].scene)
    owner = np.repeat(np.arange(len(scenes)), [len(scene.things) for scene in scenes])
    asked = np.array([scene_states(task.scene)[0] for task in todo])
    _, at = cKDTree(np.concatenate([scene_states(scene) for scene in scenes])).query(asked)
    return [render(scenes[i], size_px).video for i in owner[at]]


def _timed_alike(taught: Sequence[Scene], asked: Scene) -> list[Scene]:
    return [
        replace(s, num_frames=asked.num_frames, stride_ticks=asked.stride_ticks) for s in taught if s.things
    ]


def _another(rng: np.random.Generator, scene: Scene, unspecified: Sequence[str]) -> Scene:
    """Another clip of the world that the same caption fits; an open motion is drawn as the world pairs it
    with colour and shape."""
    if "motion" in unspecified:
        thing = scene.things[0]
        at = list(Colour).index(thing.colour), list(Shape).index(thing.shape)
        taught = class_weights(1.0)[at]
        share = (
            taught if taught.any() else bucket_weights(Bucket.PAIR)[at]
        )  # colour and shape that training never pairs, in any motion
        motion = list(Motion)[rng.choice(len(share), p=share / share.sum())]
        scene = replace(scene, things=(replace(thing, motion=motion),))
    return redraw(rng, scene, OPEN)


def one_clip(task: Task, size_px: int) -> np.ndarray:
    """The same clip for every noise: each is right on its own, together they are one."""
    return render(
        _another(rng_of(len(task.group), *task.group.encode()), task.scene, task.unspecified), size_px
    ).video


KIND = TaskKind(
    name="diversity",
    metrics=(_sets.METRIC, *text.KIND.metrics),
    headlines=("exact", "motion_moving"),
    score=score_state,
    score_set=score_prompts,
    recall=Recall(key="mem", measure=nearest_taught, trick="training clips", copies=taught_copies),
    set_headlines={"energy": 0.0, "vendi_ratio": 1.0, "dup": 0.0, "set_energy": 0.0, "mem": 1.0},
    set_tricks={"one clip": one_clip},
)


@spec
class AskedDiversity(Asked):
    """``seeds_per_prompt`` clips of each caption. ``open_motion`` leaves the motion to the model too."""

    seeds_per_prompt: int = 64
    open_motion: bool = False

    def __post_init__(self) -> None:
        refuse_none("suite.diversity.seeds_per_prompt", self.seeds_per_prompt)

    def check(self, suite: Suite) -> None:
        refuse_buckets(suite, "kind=diversity", (Bucket.EXTRAPOLATION,))

    def rule(self) -> dict[str, Any]:
        more = {"open_motion": True} if self.open_motion else {}
        return {"seeds_per_prompt": self.seeds_per_prompt} | more

    def draw(self, suite: Suite, bucket: Bucket, i: int, stream: Stream) -> list[Task]:
        """Caption ``i // seeds_per_prompt``; the scene is one of the clips of the world that it fits."""
        number = i // self.seeds_per_prompt
        shared, rng = stream(number, 1), stream(i)
        asked: Scene = timed(scene_of(shared, bucket, suite, Mix(two_things=0.0)), suite, number)
        unspecified: tuple[str, ...] = OPEN
        words = caption(asked, shared, paraphrase=bucket is Bucket.PARAPHRASE, unspecified=OPEN).text
        if self.open_motion:
            words, unspecified = _thing_alone(asked), (*OPEN, "motion")
        scene = timed(_another(rng, asked, unspecified), suite, i)
        id, group = f"{bucket.value}-{i:04d}", f"{bucket.value}-prompt-{number:03d}"
        seed = int(rng.integers(2**31))
        return [
            Task(
                id=id,
                caption=words,
                unspecified=unspecified,
                scene=scene,
                seed=seed,
                bucket=bucket,
                kind=KIND,
                group=group,
            )
        ]


def _thing_alone(scene: Scene) -> str:
    """Colour and shape and nothing else: shorter than any sentence of training, in its words."""
    thing = scene.things[0]
    return f"{'an' if thing.colour is Colour.ORANGE else 'a'} {thing.colour.value} {thing.shape.value}"
