"""Pairs that an image model draws itself: what they have in common, what CLIP keeps, what a bad file says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vgen.app.caption_pairs import by_rule, of_file
from vgen.app.drawn_pairs import DrawnPairs, PairFilter, PairJob, artist, clip_folder, cosines, judge
from vgen.app.loading import TOYBOX
from vgen.data.decode import Cut
from vgen.data.fields import Needs
from vgen.data.ledger import Reason, Rejected, read_ledger
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.toybox_edits import ToyboxEdits, drawn_pair
from vgen.methods._pairs import PairDraw, draw_pair
from vgen.toybox.edits import Edit
from vgen.toybox.splits import Bucket, bucket_of

BEFORE, AFTER = (
    "a large red circle rests on a black background",
    "a large blue circle rests on a black background",
)
ALL = PairFilter(text=-1, direction=-1, image=-1, keep=1)


def listing(folder: Path, *lines: str) -> Path:
    path = folder / "captions.jsonl"
    path.write_text("\n".join(lines))
    return path


def row(**how: str) -> str:
    return json.dumps({"input": BEFORE, "edit": "make it blue", "output": AFTER} | how)


def test_pairs_share_noise_and_a_share_of_self_attention() -> None:
    """Equal words give equal pictures; with all steps in common the edit is nearer to its source."""
    model, how = artist(TOYBOX), PairDraw(seed=1, share=0.5, guidance=3.0, num_steps=6)
    same = draw_pair(model, BEFORE, BEFORE, how)
    torch.testing.assert_close(same[0], same[1], atol=1e-3, rtol=1e-3)
    apart = [draw_pair(model, BEFORE, AFTER, replace(how, share=share)) for share in (0.0, 1.0)]
    far, near = (float((one[0] - one[1]).abs().mean()) for one in apart)
    assert near < far


def test_candidates_become_shards_with_source_and_instruction(tmp_path: Path) -> None:
    """What passes is kept, by instruction; what has empty words, and what CLIP turns down, is in the
    ledger. A second call finds all done."""
    path = listing(tmp_path, row(), row(edit=" "))
    source = DrawnPairs(path=str(path), num_samples=2, num_steps=2, filter=ALL)
    wish = Prepare(data=source, out=str(tmp_path / "out"), num_processes=1, deadline_seconds=3600)
    done = prepare(wish)
    assert done.manifest.counts["clips"] == 1
    turned_down = [(one.source, one.detail) for one in read_ledger(tmp_path / "out")]
    assert turned_down == [("pair 2", "column edit is empty")]
    sample = ShardReader(tmp_path / "out", Needs(optional=frozenset({"source"})))[0]
    assert sample.caption == "make it blue"
    assert sample.fields["source"].shape == sample.video.shape == (1, 64, 64, 3)
    assert not np.array_equal(sample.fields["source"], sample.video)
    assert 0.1 <= sample.metadata["share"] <= 0.9
    assert sample.metadata["target_caption"] == AFTER
    assert not prepare(wish).fresh


def test_what_clip_turns_down_is_told(tmp_path: Path) -> None:
    strict = DrawnPairs(num_pairs=1, num_samples=1, num_steps=1, filter=PairFilter(image=1.0, text=1.0))
    (job,) = strict.jobs(Cut(fps=8, num_frames=1, size_px=64))
    assert isinstance(job, PairJob)
    with pytest.raises(Rejected) as told:
        next(job.samples(tmp_path))
    assert told.value.reason is Reason.FILTERED
    assert "none of 1 candidates passes, the nearest has share" in told.value.detail


def test_a_copy_has_no_direction() -> None:
    picture = np.full((1, 64, 64, 3), 90, np.uint8)
    found = cosines(judge(clip_folder(DrawnPairs())), picture.repeat(2, 0), [BEFORE, AFTER])
    assert found["direction"] == 0
    assert found["image"] == pytest.approx(1)


def test_an_instruction_file_with_empty_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has empty lines \(2\)"):
        of_file(listing(tmp_path, row(), "", row()))


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no column 'input'"):
        of_file(listing(tmp_path, '{"caption": "a"}'))


def test_exact_pairs_differ_in_what_the_instruction_says_alone(tmp_path: Path) -> None:
    """Held-out combinations stay held out; the same seed gives the same pairs, another gives others."""
    pairs = [drawn_pair(i, 4, edit) for i in range(10) for edit in (Edit.RECOLOUR, Edit.BOTH)]
    for pair in pairs:
        assert all(bucket_of(pair.edited.things[k]) is Bucket.IID for k in pair.changed)
        assert pair.edited.ground is pair.scene.ground
    assert drawn_pair(3, 4, Edit.GROUND) == drawn_pair(3, 4, Edit.GROUND) != drawn_pair(3, 5, Edit.GROUND)
    assert by_rule(2, 0)[0].instruction != by_rule(2, 1)[0].instruction
    done = prepare(
        Prepare(data=ToyboxEdits(num_pairs=4, stills=True), out=str(tmp_path / "e"), num_processes=1)
    )
    sample = ShardReader(done.folder, Needs(optional=frozenset({"source"})))[1]
    assert sample.num_frames == 1
    assert sample.metadata["edit"] == "reshape"
    assert (sample.fields["source"] != sample.video).any()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"num_samples": 0}, "of at least 1"),
        ({"share": [0.9, 0.1]}, "is a range as"),
        ({"filter": {"keep": 0}}, "keep must be 1 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(how: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DrawnPairs(**{k: PairFilter(**v) if k == "filter" else v for k, v in how.items()})
