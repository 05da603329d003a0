"""The audit: agreement on the truth, and what divides two readers, by clip."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.metrics.second_reader import LEAST_ON_TRUTH, agreement, can_audit
from vgen.metrics.suite import Kind, Suite, Task, tasks
from vgen.toybox.renderer import render

ONE = {
    "iid": 12,
    "pair": 0,
    "triple": 0,
    "extrapolation": 0,
    "paraphrase": 0,
    "num_frames": 8,
    "stride_ticks": 2,
}


@pytest.fixture(scope="module")
def todo() -> list[Task]:
    return tasks(Suite(**ONE))


def test_the_truth_divides_nobody(todo: list[Task]) -> None:
    found = agreement((t, render(t.scene).video) for t in todo)
    assert found.share.mean >= LEAST_ON_TRUTH
    assert (found.share.num, found.apart, found.enough) == (12, {}, True)
    assert found.verdict.mean == 1


def test_what_one_reader_takes_for_a_motion_and_the_other_does_not_is_listed(todo: list[Task]) -> None:
    """A thing that jumps about moves as nothing of this world to the first reader; the second knows nothing
    but motions of it."""
    rng = np.random.default_rng(0)
    shuffled = [(t, render(t.scene).video[rng.permutation(8)]) for t in todo]
    found = agreement(shuffled)
    assert not found.enough
    assert found.share.mean == pytest.approx(1 - len(found.apart) / 12)
    assert found.verdict.mean > 0.6 > found.share.mean, (
        "what moves as nothing or the wrong way is wrong to both"
    )
    assert all(
        d.what.startswith("motion of the") and d.first == "none"
        for apart in found.apart.values()
        for d in apart
    )


def test_figures_sprites_and_textures_are_not_audited(todo: list[Task]) -> None:
    [figure, *_] = tasks(Suite(**ONE | {"iid": 1}, kind=Kind.IDENTITY))
    assert can_audit(todo[0])
    assert not can_audit(figure)
    with pytest.raises(
        ValueError, match="knows shapes on solid grounds, task iid-0000-subject-000 has others"
    ):
        agreement([(figure, render(figure.scene).video)])
    assert not agreement([]).enough, "nothing was audited"
