"""The calibration table: what the truth, damage and tricks score on the core suite."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.metrics.metric import Numbers
from vgen.metrics.selftest import self_test
from vgen.metrics.suite import Suite, Task, tasks
from vgen.toybox.scenes import Motion


@pytest.fixture(scope="module")
def todo() -> list[Task]:
    return tasks(Suite(iid=28, pair=6, triple=6, extrapolation=0, paraphrase=0, num_frames=8, stride_ticks=2))


@pytest.fixture(scope="module")
def rows(todo: list[Task]) -> dict[str, list[Numbers]]:
    return self_test(todo)


def mean(rows: list[Numbers], key: str) -> float:
    return float(np.mean([v for row in rows if (v := row[key]) is not None]))


@pytest.mark.parametrize(
    ("damage", "least"), [("truth", 0.98), ("blur 1 px", 0.95), ("noise .05", 0.95), ("jpeg q75", 0.95), ("jpeg q30", 0.85)]
)
def test_damage_is_read_through(rows: dict[str, list[Numbers]], damage: str, least: float) -> None:
    assert mean(rows[damage], "exact") >= least
    assert mean(rows[damage], "coherence") >= (0.99 if damage == "truth" else 0.85)


@pytest.mark.parametrize("trick", ["frozen", "shuffled", "reversed", "mean"])
def test_tricks_earn_the_static_captions_at_most(rows: dict[str, list[Numbers]], todo: list[Task], trick: str) -> None:
    static = np.mean([all(t.motion is Motion.STATIC for t in task.scene.things) for task in todo])
    assert mean(rows[trick], "exact") <= static + 0.03
    assert mean(rows[trick], "motion_moving") <= 0.05


def test_frozen_is_perfect_by_the_naive_measure_and_nothing_by_the_gated_one(rows: dict[str, list[Numbers]], todo: list[Task]) -> None:
    assert mean(rows["frozen"], "pixel_agreement") == 1
    moving = [row for row, task in zip(rows["frozen"], todo, strict=True) if all(t.motion is not Motion.STATIC for t in task.scene.things)]
    assert mean(moving, "tc") == 0
    assert mean(rows["truth"], "tc") > 0.9


def test_blank_earns_nothing(rows: dict[str, list[Numbers]]) -> None:
    for key in ("exact", "colour", "shape", "size", "motion", "speed", "count", "perm", "tc", "coherence"):
        assert mean(rows["blank"], key) == 0, key


def test_another_clip_is_near_chance(rows: dict[str, list[Numbers]]) -> None:
    assert mean(rows["other clip"], "exact") == 0
    assert mean(rows["other clip"], "colour") < 0.3
    assert mean(rows["other clip"], "motion") < 0.35


def test_shuffling_shows_in_the_jerk(rows: dict[str, list[Numbers]]) -> None:
    assert mean(rows["shuffled"], "jerk") > 0.1 > 10 * mean(rows["truth"], "jerk")
