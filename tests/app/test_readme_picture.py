"""The README's picture is true: to the pixel when it is written, and each clip shows what is said of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vgen.toybox.oracle import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    import readme_picture

    yield readme_picture
    sys.path.remove(str(ROOT / "scripts"))


@pytest.mark.slow
def test_frames_come_back_as_they_were(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    clips = list(rng.integers(0, 256, (6, 3, 64, 64, 3), dtype=np.uint8))
    back = script.frames_of(script.as_webp(script.composed(clips)))
    assert np.array_equal(back, script.composed(clips))
    assert all(np.array_equal(a, b) for a, b in zip(script.taken_apart(back), clips, strict=True))


def said(prompt: str) -> tuple[str, set[tuple[str, str, str, str]]]:
    """Ground, and size, colour, shape and direction of each thing of a prompt."""
    things = re.findall(r"a (\w+) (\w+) (\w+) that (?:moves (\w+)|stays (still))", prompt)
    directions = {"still": "static"}
    found = {
        (size, colour, shape, directions.get(to or rest, to)) for size, colour, shape, to, rest in things
    }
    ground = re.search(r"on a (\w+) background", prompt)
    assert ground
    return ground[1], found


def test_each_clip_shows_what_it_was_asked(script: ModuleType) -> None:
    clips = script.taken_apart(script.frames_of(script.PICTURE.read_bytes()))
    for clip, (prompt, _) in zip(clips, script.PROMPTS, strict=True):
        facts = read(np.ascontiguousarray(clip))
        seen = {
            (t.size.value, t.colour.value, t.shape.value, t.motion.value) for t in facts.things if t.motion
        }
        assert (facts.ground.value, seen) == said(prompt)


def test_the_readme_shows_it_and_says_that_clips_are_chosen() -> None:
    text = (ROOT / "README.md").read_text()
    [shown] = re.findall(r"\((docs/pictures/[\w.]+)\)", text)
    assert (ROOT / shown).is_file()
    caption = text[text.index(shown) : text.index("## Two commands")]
    for word in ("chosen", "nose", "tail"):
        assert word in caption
