"""Moving pictures of the miniature world, and a second, different set."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vgen.toybox.captions import caption
from vgen.toybox.renderer import Rendered, render
from vgen.toybox.sampling import Family, Mix, rng_of, sample

TOYBOX = Path(__file__).parents[3] / "data" / "toybox"


def scenes(seed: int, num: int) -> tuple[list[Rendered], list[str]]:
    rng = rng_of(seed)
    drawn = [sample(rng, Family.CORE, Mix()) for _ in range(num)]
    return [render(scene) for scene in drawn], [caption(scene, rng).text for scene in drawn]


@pytest.fixture(scope="session")
def world() -> tuple[list[Rendered], list[str]]:
    return scenes(7, 4)


@pytest.fixture(scope="session")
def videos(world: tuple[list[Rendered], list[str]]) -> list[np.ndarray]:
    return [rendered.video[:6] for rendered in world[0]]


@pytest.fixture(scope="session")
def prompts(world: tuple[list[Rendered], list[str]]) -> list[str]:
    return world[1]


@pytest.fixture(scope="session")
def noisy() -> Callable[[list[np.ndarray], float], list[np.ndarray]]:
    """Independent noise per frame, ``sigma`` of full scale."""

    def spoil(videos: list[np.ndarray], sigma: float) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [np.clip(v + rng.normal(0, sigma * 255, v.shape), 0, 255).round().astype(np.uint8) for v in videos]

    return spoil
