"""Segments of a listing: each is cut where it says, in every layout that listings have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vgen.data.ledger import read_ledger
from vgen.data.listing_source import ListingSource
from vgen.data.mp4 import encode_mp4
from vgen.data.prepare import Prepare, prepare
from vgen.data.reader import ShardReader
from vgen.data.segments import Segment, SegmentUnit, segments_of

RED, BLUE, BOTH = (255, 0, 0), (0, 0, 255), None
ROWS = """a.mp4,a red wall,0,1.5
a.mp4,a blue wall,1.5,4
a.mp4,first red,0.5,3
a.mp4,bad,3,2
a.mp4,late,3.5,9
"""
LISTS = {"path": "a.mp4", "caption": ["a red wall", "a blue wall"], "start": [0, 1.5], "end": [1.5, 4]}
SHORT = LISTS | {"caption": ["alone"]}
SPANS = "[['0:00:00.000', '0:00:01.500'], ['0:00:01.500', '0:00:04']]"
CLOCK = f"path,caption,span\na.mp4,\"['a red wall', 'a blue wall']\",\"{SPANS}\"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video that is red for 1.5 seconds and then blue up to 4."""
    video = np.zeros((32, 64, 64, 3), np.uint8)
    video[:12, ..., 0] = 255
    video[12:, ..., 2] = 255
    (tmp_path / "a.mp4").write_bytes(encode_mp4(video, 8.0, 12))
    return tmp_path


def prepared(folder: Path, listing: str, text: str, **columns):
    (folder / listing).write_text(text)
    source = ListingSource(path=str(folder / listing), **columns)
    out = folder / "out"
    prepare(
        Prepare(data=source, out=str(out), num_frames=8, size_px=32, num_processes=1, max_reject_share=1.0)
    )
    found = [(s.caption, _colour(s.video), s.metadata["start_seconds"], s.id) for s in ShardReader(out)]
    return found, [rejection.detail for rejection in read_ledger(out)]


def _colour(video: np.ndarray) -> tuple[int, int, int]:
    """The mean, to the nearest full colours."""
    return tuple(int(255 * round(x / 255)) for x in video.mean((0, 1, 2)))


def test_rows_are_segments_and_may_overlap(folder):
    found, rejected = prepared(
        folder, "l.csv", f"path,caption,start,end\n{ROWS}", start_column="start", end_column="end"
    )
    assert [(caption, colour, start) for caption, colour, start, _ in found] == [
        ("a red wall", RED, 0.0),
        ("a blue wall", BLUE, 1.5),
        ("a blue wall", BLUE, 2.5),
        ("first red", RED, 0.5),
        ("first red", BLUE, 1.5),
    ]
    assert [key for *_, key in found][:2] == ["a-ms0-1500-0000", "a-ms1500-4000-0000"]
    assert rejected[0] == "the row can't be read: a segment ends after its start, got 3 to 2"
    assert rejected[1].startswith("0.50 s, a clip needs 1.00 s")


@pytest.mark.parametrize(
    ("listing", "text", "columns"),
    [
        ("l.jsonl", json.dumps(LISTS), {"end_column": "end"}),
        ("l.csv", CLOCK, {"start_column": "span", "end_column": "span"}),
        (
            "f.csv",
            "path,caption,start,end\na.mp4,a red wall,0,12\na.mp4,a blue wall,12,\n",
            {"end_column": "end", "segment_unit": SegmentUnit.FRAMES},
        ),
    ],
    ids=["lists", "lists in cells, as clock times in pairs", "frames"],
)
def test_every_layout_gives_the_same_clips(folder, listing, text, columns):
    found, rejected = prepared(folder, listing, text, **{"start_column": "start", **columns})
    assert [part[:3] for part in found] == [
        ("a red wall", RED, 0.0),
        ("a blue wall", BLUE, 1.5),
        ("a blue wall", BLUE, 2.5),
    ]
    assert rejected == []


def test_what_is_no_segment_is_one_row_of_the_ledger(folder):
    rows = [LISTS, SHORT, LISTS | {"start": [0, "soon"]}, LISTS | {"end": [1]}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    found, rejected = prepared(folder, "l.jsonl", text, start_column="start", end_column="end")
    assert len(found) == 3
    assert rejected == [
        "the row can't be read: 1 captions for 2 segments; each needs its own",
        "the row can't be read: 'soon' is no time",
        "the row can't be read: 2 starts and 1 ends are named; a segment needs both",
    ]


def test_a_video_named_twice_without_segments_says_how_they_are_named(folder):
    text = "path,caption\na.mp4,one\na.mp4,two\n"
    _, rejected = prepared(folder, "l.csv", text)
    assert rejected == [
        "row 0 has the key 'a' already; data.start_column and data.end_column cut a video by rows"
    ]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(-1, 2, "starts at 0 or later"), (1, 1, "ends after its start"), (float("inf"), None, "starts at 0")],
)
def test_segments_lie_within_time(start, end, message):
    with pytest.raises(ValueError, match=message):
        Segment(start, end)
    with pytest.raises(ValueError, match="frames are whole numbers"):
        Segment(0.5, None, SegmentUnit.FRAMES)


def test_cells_are_read_as_literals_alone():
    """A list in a cell is data: what would be a call is text, and so no list of times."""
    bomb = "[__import__('os').mkdir('executed')]"
    with pytest.raises(ValueError, match="is no time"):
        segments_of("x", bomb, None, SegmentUnit.SECONDS, paired=False)
    assert not Path("executed").exists()
    with pytest.raises(ValueError, match="is no time"):
        segments_of("x", "[" * 100_000, None, SegmentUnit.SECONDS, paired=False)
    with pytest.raises(ValueError, match=r"data.end_column=end needs data.start_column"):
        ListingSource(end_column="end")
