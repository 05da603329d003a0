"""Captions taken apart into what they say of each thing."""

from __future__ import annotations

import pytest

from vgen.toybox.captions import caption
from vgen.toybox.clauses import JOINT, Apart, apart
from vgen.toybox.sampling import Family, Mix, rng_of, sample


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("paraphrase", [False, True])
@pytest.mark.parametrize("unspecified", [(), ("size", "speed", "ground")])
def test_a_caption_has_a_clause_for_every_thing(
    family: Family, paraphrase: bool, unspecified: tuple[str, ...]
) -> None:
    for i in range(20):
        scene = sample(rng_of(3, i), family, Mix(two_things=0.6))
        text = caption(scene, rng_of(4, i), paraphrase=paraphrase, unspecified=unspecified).text
        found = apart(text)
        assert found.before + JOINT.join(found.clauses) + found.after == text
        assert len(found.clauses) == (1 if scene.relation else len(scene.things))
        if len(found.clauses) > 1:
            for clause, thing in zip(found.clauses, scene.things, strict=True):
                assert f" {thing.colour.value} {thing.shape.value} " in f"{clause} "


def test_the_words_of_one_thing_stay_together() -> None:
    assert apart(
        "a red ring drifts down and left fast and an orange star rests on a navy background"
    ) == Apart("", ("a red ring drifts down and left fast", "an orange star rests"), " on a navy background")


def test_other_texts_are_one_clause() -> None:
    assert apart("two dogs\nin the snow") == Apart("", ("two dogs\nin the snow",), "")
