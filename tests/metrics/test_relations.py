"""REL: who stands above, left of, and in front of whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vgen.metrics.relations import relation_accuracy
from vgen.toybox.oracle import read
from vgen.toybox.renderer import render
from vgen.toybox.sampling import Family, Mix, rng_of, sample
from vgen.toybox.scenes import Relation, Scene


def scenes(relation: Relation, n: int) -> list[Scene]:
    found, i = [], 0
    while len(found) < n:
        scene = sample(rng_of(31, i), Family.RELATION, Mix())
        if scene.relation is relation:
            found.append(replace(scene, num_frames=8, stride_ticks=2))
        i += 1
    return found


def shown(video: np.ndarray, scene: Scene) -> dict[str, float | None]:
    return relation_accuracy(read(video, scene.stride_ticks), scene)


@pytest.mark.parametrize("relation", [Relation.ABOVE, Relation.LEFT_OF])
def test_the_truth_stands_as_it_should_and_its_mirror_image_does_not(relation: Relation) -> None:
    axis = 1 if relation is Relation.ABOVE else 2
    for scene in scenes(relation, 8):
        video = render(scene).video
        assert shown(video, scene) == {"rel": 1, "rel_frames": 1}
        assert shown(np.flip(video, axis).copy(), scene)["rel"] == 0
        assert shown(np.swapaxes(video, 1, 2).copy(), scene)["rel"] == 0  # beside instead of above


def test_what_is_in_front_is_told_from_what_is_behind() -> None:
    """Its outline is whole, and the hidden one is completed for its facts alone."""
    found = scenes(Relation.IN_FRONT_OF, 12)
    turned = [replace(s, things=s.things[::-1]) for s in found]
    assert np.mean([shown(render(s).video, s)["rel"] for s in found]) >= 0.75
    assert np.mean([shown(render(t).video, s)["rel"] for t, s in zip(turned, found, strict=True)]) <= 0.25
    apart = [
        replace(s, things=(replace(s.things[0], x=0.2, y=0.2), replace(s.things[1], x=0.8, y=0.8)))
        for s in found
    ]
    assert np.mean([shown(render(a).video, s)["rel"] for a, s in zip(apart, found, strict=True)]) == 0


def test_a_missing_thing_stands_nowhere_and_three_quarters_of_the_frames_are_enough() -> None:
    [scene] = scenes(Relation.ABOVE, 1)
    alone = render(replace(scene, things=scene.things[:1])).video
    assert shown(alone, scene) == {"rel": 0, "rel_frames": 0}
    video = render(scene).video
    for gone, right in (([2, 5], 1), ([1, 3, 5], 0)):
        broken = video.copy()
        broken[gone] = render(replace(scene, things=())).video[gone]
        assert shown(broken, scene) == {"rel": right, "rel_frames": 1 - len(gone) / 8}


def test_no_relation_asks_for_nothing() -> None:
    scene = replace(sample(rng_of(3), Family.CORE, Mix(two_things=1.0)), num_frames=4, stride_ticks=4)
    assert shown(render(scene).video, scene) == {"rel": None, "rel_frames": None}
