"""The page of all systems: nothing lies over anything at any width, and what is published is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgen.app.figures import measured

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "gallery"
MOST_BYTES = 8 * 2**20
NUMBER = {"mean": 0.71, "low": 0.6, "high": 0.8, "num": 64}
FIGURE = {"what": "J of a thing", "ours": NUMBER, "control": "without", "theirs": NUMBER, "beyond": NUMBER}
LAID_OUT = """(() => {
  const boxes = [...document.querySelectorAll('article')].map(e => e.getBoundingClientRect());
  const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1
    && b.top < a.bottom - 1;
  const pairs = boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => over(a, b)));
  const inside = [...document.querySelectorAll('article > *')].every(e => {
    const [child, card] = [e.getBoundingClientRect(), e.parentElement.getBoundingClientRect()];
    return child.left >= card.left && child.right <= card.right + 1 && child.bottom <= card.bottom + 1;
  });
  return [pairs.length, inside, document.documentElement.scrollWidth <= innerWidth];
})()"""


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT))
    from benchmarks.systems import gallery

    yield gallery
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def standing_in(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of noise in as many panels as there may be."""
    folder, rng = tmp_path_factory.mktemp("gallery"), np.random.default_rng(0)
    known: dict[str, Any] = {}
    for num, name in enumerate((*pages.SIX, "codef", "rerender")):
        titles = ["a large red circle moves right fast on a black background"] * (1 + num % 6)
        clips = [(title, rng.integers(0, 256, (2 + num, 64, 64, 3), dtype=np.uint8)) for title in titles]
        pages.write_picture(folder / f"{name}.webp", clips)
        known[name] = {"figures": [FIGURE] * 3, "titles": titles}
    pages.write_gallery(folder, known)
    return folder


def laid_out(page: Path, browser: Any) -> None:
    for px in (390, 800, 1400):
        browser.width(px)
        for theme in ("light", "dark"):
            browser.theme(theme)
            browser.open(page)
            browser.run("document.querySelectorAll('img').forEach(e => { e.loading = 'eager' })")
            browser.until("[...document.images].every(e => e.complete && e.naturalWidth)")
            assert browser.run(LAID_OUT) == [0, True, True], f"{page} at {px} px"
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("file:")] == []


def test_nothing_lies_over_anything(standing_in: Path, browser) -> None:
    laid_out(standing_in / "index.html", browser)


def test_six_pictures_are_one_as_long_as_the_longest(standing_in: Path) -> None:
    with Image.open(standing_in / "six.webp") as image:
        assert getattr(image, "n_frames", 1) == 7
        assert image.height == 3 * (128 + 58 + 18)


def test_a_picture_that_is_not_there_makes_no_six(pages: ModuleType, tmp_path: Path) -> None:
    assert pages.write_six(tmp_path) is None


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs docs/gallery: python -m benchmarks.systems")
def test_what_is_published_is_whole(browser) -> None:
    text = (PUBLISHED / "index.html").read_text(encoding="utf-8")
    for name in measured():
        assert (PUBLISHED / f"{name}.webp").is_file()
        assert f'src="{name}.webp"' in text
    assert sum(path.stat().st_size for path in PUBLISHED.iterdir()) <= MOST_BYTES
    laid_out(PUBLISHED / "index.html", browser)
