"""Suites: what a task depends on, what buckets promise, and who may know the salt."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from vgen.metrics.suite import Suite, tasks
from vgen.toybox.splits import Bucket, bucket_of

ROOT = Path(__file__).parents[2] / "vgen"
SMALL = {"iid": 6, "pair": 6, "triple": 6, "extrapolation": 3, "paraphrase": 3}


def test_a_suite_grows_without_changing() -> None:
    few = {t.id: t for t in tasks(Suite(**SMALL))}
    many = {t.id: t for t in tasks(Suite(**{k: 2 * v for k, v in SMALL.items()}))}
    assert all(many[id] == task for id, task in few.items())
    assert len(many) == 2 * len(few)


def test_another_seed_gives_other_scenes() -> None:
    assert tasks(Suite(**SMALL))[0].scene != tasks(Suite(**SMALL, seed=1))[0].scene


def test_buckets_hold_what_they_promise() -> None:
    for task in tasks(Suite(**SMALL)):
        places = {bucket_of(t) for t in task.scene.things}
        match task.bucket:
            case Bucket.EXTRAPOLATION:
                assert len(task.scene.things) == 3
            case Bucket.PARAPHRASE:
                assert places == {Bucket.IID}
            case bucket:
                assert places == {bucket}


def test_open_factors_are_not_told() -> None:
    found = [t for t in tasks(Suite(**SMALL, open_share=1.0)) if t.unspecified == ("ground",)]
    assert found
    assert all("background" not in t.caption and "scene" not in t.caption for t in found)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"iid": -1}, "non-negative"), ({"num_frames": 20}, "within 15 ticks"), ({"open_share": 2.0}, "open_share")]
)
def test_impossible_suites_speak(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Suite(**wrong)


@pytest.mark.parametrize("room", ["training", "methods", "data", "toybox", "layers", "backbones", "diffusion"])
def test_nothing_that_trains_knows_the_salt(room: str) -> None:
    """Neither the salt itself nor the suites drawn from it."""
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = [node.value]
            assert not any(n in ("vgen.metrics._salt", "vgen.metrics.suite") for n in names), f"{path} imports evaluation scenes"
