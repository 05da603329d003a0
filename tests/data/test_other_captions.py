"""Other captions of toybox clips, as they reach a batch."""

from __future__ import annotations

import numpy as np
import pytest

from vgen.data.clips import Clip
from vgen.toybox.captions import caption
from vgen.toybox.contrast import KINDS
from vgen.toybox.sampling import Mix, rng_of, scene_at
from vgen.training.loader import Collate


def clips(num: int, **more: object) -> list[Clip]:
    scenes = [scene_at(i, 0, Mix(), 4) for i in range(num)]
    return [
        Clip(
            key=(f"toybox-{i:08d}", 0),
            caption=caption(scene, rng_of(0, i)).text,
            metadata={"scene": scene.to_dict()} | more,
            at=np.arange(4),
            fields={"video": np.zeros((4, 3, 8, 8), np.uint8)},
        )
        for i, scene in enumerate(scenes)
    ]


def test_a_batch_has_other_captions_where_they_are_asked_for() -> None:
    todo = clips(6)
    plain, asked = Collate()(todo), Collate(paraphrases=True, num_distractors=2)(todo)
    assert (plain.paraphrases, plain.distractors) == ([], [])
    assert len(asked.paraphrases) == len(asked.distractors) == 6
    assert any(other != clip.caption for other, clip in zip(asked.paraphrases, todo, strict=True))
    for wrong, clip in zip(asked.distractors, todo, strict=True):
        assert 1 <= len(wrong) <= 2
        assert set(wrong) <= set(KINDS)
        assert clip.caption not in wrong.values()


def test_a_clip_without_a_scene_has_no_other_words() -> None:
    [clip] = clips(1)
    clip.metadata.pop("scene")
    with pytest.raises(ValueError, match="carries no scene, so it can't be put in other words"):
        Collate(paraphrases=True)([clip])
