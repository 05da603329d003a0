"""Rows that several processes make, each its share, become the shards that one process makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgen.data.manifest import Manifest
from vgen.data.prepare import Prepare, prepare
from vgen.data.prepare_share import prepare_share
from vgen.data.toybox import ToyboxSource
from vgen.data.workspace import Workspace

SOURCE = ToyboxSource(num_clips=70, seed=3)
"""Three rows: the toybox has 32 clips in one."""


def wish(out: Path, share: str = "", **more: object) -> Prepare:
    return Prepare(data=SOURCE, out=str(out), num_frames=2, size_px=16, num_processes=1, share=share, **more)


def test_shares_make_the_shards_of_one_process(tmp_path: Path) -> None:
    whole = prepare(wish(tmp_path / "whole"))
    shared = tmp_path / "shared"
    assert [prepare_share(wish(shared, f"{i}/2")).files for i in (1, 0)] == [1, 2]
    watched: list[int] = []
    made = prepare(wish(shared), lambda done, total, counts: watched.append(counts.clips))
    assert Manifest.read(shared).content_hash == whole.manifest.content_hash
    assert made.manifest.counts == whole.manifest.counts
    assert prepare_share(wish(shared, "0/2")).files == 0, "it is complete"


def test_a_share_that_is_lacking_is_made_by_the_last(tmp_path: Path) -> None:
    prepare_share(wish(tmp_path / "shared", "1/3"))
    prepare(wish(tmp_path / "whole"))
    prepare(wish(tmp_path / "shared"))
    hashes = {Manifest.read(tmp_path / name).content_hash for name in ("shared", "whole")}
    assert len(hashes) == 1


def test_shares_work_side_by_side_and_no_shards_are_made_meanwhile(tmp_path: Path) -> None:
    facts = {"settings": {}}
    first, second, last = (Workspace(tmp_path) for _ in range(3))
    first.join(facts)
    second.join(facts)
    assert first.scratch.is_dir()
    assert second.scratch.is_dir()
    try:
        with pytest.raises(ValueError, match="another vgen prepare is at work"):
            last.open(facts)
    finally:
        for workspace in (first, second, last):
            workspace.release()
    begins, joins = Workspace(tmp_path), Workspace(tmp_path)
    begins.open(facts)
    try:
        with pytest.raises(ValueError, match="another vgen prepare is at work"):
            joins.join(facts)
    finally:
        for workspace in (begins, joins):
            workspace.release()


def test_a_share_of_other_settings_is_refused(tmp_path: Path) -> None:
    prepare_share(wish(tmp_path / "shared", "0/2"))
    with pytest.raises(ValueError, match="was prepared with other settings"):
        prepare_share(wish(tmp_path / "shared", "1/2", fps=4.0))
    with pytest.raises(ValueError, match=r"share must be I/N with I in 0\.\.N-1, such as share=0/4, got 2/2"):
        wish(tmp_path, "2/2")
