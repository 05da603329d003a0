"""Keys of a suite that moved into the slots of their kinds can be written as before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vgen.app import cli
from vgen.app.judging.old_spelling import moved, respelt


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("suite.edits=[both]", ["suite.edit.edits=[both]"]),
        ("suite.control=mask,depth", ["suite.control.control=mask,depth"]),
        ("++suite.two_things=1", ["++suite.text.two_things=1"]),
        ("suite.pair_factors=[size]", ["suite.text.pair_factors=[size]"]),
        ("suite.seeds_per_prompt=8", ["suite.diversity.seeds_per_prompt=8"]),
        ("suite.num_references=2", ["suite.identity.num_references=2"]),
        (
            "suite.open_share=0,1",
            ["suite.text.open_share=0,1", "suite.edit.open_share=${suite.text.open_share}"],
        ),
        ("suite.control={control:mask}", ["suite.control={control:mask}"]),
        ("suite.edit.edits=[both]", ["suite.edit.edits=[both]"]),
        ("suite=edit", ["suite=edit"]),
        ("method.edits=3", ["method.edits=3"]),
        ("-m", ["-m"]),
    ],
)
def test_an_old_key_is_written_as_the_new_one(old: str, new: list[str]) -> None:
    assert respelt([old]) == new
    assert bool(moved([old])) == ([old] != new)


def test_the_command_line_says_the_new_spelling_and_draws_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    few = [f"suite.{bucket}=0" for bucket in ("pair", "triple", "extrapolation", "paraphrase")]
    common = ["stage=prompts", "suite=edit", "suite.iid=2", *few]
    spelt = {
        "old": ["suite.edits=[both,ground]", "suite.open_share=1"],
        "new": ["suite.edit.edits=[both,ground]", "suite.edit.open_share=1"],
    }
    for name, words in spelt.items():
        assert cli.run("evaluate", [*common, *words, f"out={name}"]) == cli.DONE
        told = capsys.readouterr().err
        assert ("suite.edits is now spelt suite.edit.edits; the old spelling still works" in told) == (
            name == "old"
        )
    old, new = (Path(name, "prompts.jsonl").read_text(encoding="utf-8") for name in spelt)
    assert old == new
    files = [Path(json.loads(row)["file"]).stem for row in old.splitlines()]
    assert files == ["iid-0000-both", "iid-0001-ground"]
