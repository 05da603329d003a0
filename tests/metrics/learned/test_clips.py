"""What is measured is checked before anything runs, and every mistake says what to do."""

import numpy as np
import pytest

from vgen.metrics.learned import Clips
from vgen.metrics.learned.clips import as_uint8


def clip(f=4, h=16, w=16):
    return np.zeros((f, h, w, 3), np.uint8)


def test_floats_are_rounded_to_the_same_frames_as_uint8(videos):
    for dtype in (np.float32, np.float64):
        assert np.array_equal(as_uint8(videos[0].astype(dtype) / 255, "v"), videos[0])
    assert as_uint8(np.full((1, 1, 1, 3), 0.9999), "v").max() == 255, "truncation would give 254"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Clips(videos=[]), "nothing to measure"),
        (lambda: Clips(videos=[clip(), clip(f=5)]), r"4 frames of 16×16 in videos\[0\] and 5 frames of "
                                                    r"16×16 in videos\[1\]"),
        (lambda: Clips(videos=[clip()], sources=[clip(h=8)]), r"and 4 frames of 16×8 in sources\[0\]"),
        (lambda: Clips(videos=[clip()], references=[clip(f=3)]), r"references\[0\]"),
        (lambda: Clips(videos=[clip()], prompts=[]), "prompts must have one entry for each of the 1 videos, "
                                                     "got 0"),
        (lambda: Clips(videos=[clip()] * 3, prompts="red"), "prompts must be a list of strings, one for "
                                                            "each video, got 'red'"),
        (lambda: Clips(videos=[clip()], source_prompts=[3]), "source_prompts must be a list of strings"),
        (lambda: Clips(videos=[clip().astype(np.float32) - 1]), r"float32 from -1 to -1; it looks like "
                                                                r"\[-1, 1\]"),
        (lambda: Clips(videos=[clip().astype(np.float32) + 2]), "divide by its full scale"),
        (lambda: Clips(videos=[np.full((2, 4, 4, 3), np.nan)]), "from nan to nan"),
        (lambda: Clips(videos=[clip().astype(np.int64)]), "got int64; convert it to uint8"),
        (lambda: Clips(videos=[clip().transpose(0, 3, 1, 2)]), "got shape 4 3 16 16; move the axes first"),
        (lambda: Clips(videos=[clip(f=0)]), "got shape 0 16 16 3"),
        (lambda: Clips(videos=[clip()], masks=[np.ones((4, 16, 16))]), r"masks\[0\] must be finite bool of "
                                                                       r"shape 4 16 16, got float64"),
        (lambda: Clips(videos=[clip()], flow=[np.zeros((4, 16, 16, 2), np.float32)]), r"flow\[0\] must be "
                                                                                      r"finite float of "
                                                                                      r"shape 3 16 16 2"),
    ],
)  # fmt: skip
def test_a_mistake_speaks(made, says):
    with pytest.raises(ValueError, match=says):
        made()


def test_the_digest_tells_contents_order_and_fields_apart(videos):
    base = Clips(videos=videos, prompts=["a", "bc", "d", "e"], sources=videos)
    same = Clips(videos=videos, prompts=["a", "bc", "d", "e"])
    assert base.digest(["prompts"]) == same.digest(["prompts"])
    for other in (["ab", "c", "d", "e"], ["bc", "a", "d", "e"]):
        assert base.digest(["prompts"]) != Clips(videos=videos, prompts=other).digest(["prompts"])
    assert base.digest(["sources"]) != same.digest(["sources"])
