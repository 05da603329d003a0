"""``vgen edit edits=FILE.jsonl``: many edits from the command line, finished ones skipped, failures named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from vgen.app.edit import edit, offer
from vgen.app.edit_list import edit_list, read_list
from vgen.app.edit_run import EditRun
from vgen.data.clip_files import write_mp4
from vgen.formats.adapter import plain
from vgen.methods.masactrl import MasaCtrl
from vgen.methods.prompt_to_prompt import PromptToPrompt

WORDS = ["method=prompt_to_prompt", "method.null_text.inner_steps=0", "num_frames=2", "sampling.num_steps=2"]
SOURCE, TARGET = "a large red circle on a black background", "a large blue circle on a black background"


@pytest.fixture
def clip(tmp_path: Path) -> str:
    video = np.zeros((4, 64, 64, 3), np.uint8)
    video[:, 16:48, 16:48, 0] = 255
    return str(write_mp4(tmp_path / "red.mp4", video, 8.0))


def listed(tmp_path: Path, *lines: dict | str) -> Path:
    path = tmp_path / "edits.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def made(run: EditRun, out: Path) -> None:
    """A card as a real edit leaves it."""
    from dataclasses import asdict

    (out / "card.json").write_text(json.dumps(plain(asdict(run))))


def settle(path: Path, out: Path, edit_into=made, words: list[str] = WORDS) -> Path:
    told = [f"edits={path}", f"out={out}", *words]
    run = EditRun(method=PromptToPrompt(), edits=str(path), out=str(out))
    return edit_list(run, told, offer, edit_into, Console(quiet=True))


def test_a_line_says_what_is_its_own_and_the_command_line_the_rest(tmp_path: Path) -> None:
    """Knobs of the command line's method do not go to another one, and keys may be spelt as they were."""
    path = listed(
        tmp_path,
        {"video": "a.mp4", "source": SOURCE, "target": TARGET},
        "",
        {"method": "masactrl", "name": "other", "num_frames": 3, "sampling": {"guidance": 2}, "target": "x"},
    )
    first, second = read_list(path, WORDS, offer)
    assert (first.number, first.name, second.number, second.name) == (1, "0001", 3, "other")
    assert isinstance(first.run.method, PromptToPrompt)
    assert first.run.method.null_text.inner_steps == 0
    assert (first.run.num_frames, first.run.target) == (2, TARGET)
    assert isinstance(second.run.method, MasaCtrl)
    assert (second.run.num_frames, second.run.sampling.guidance, second.run.sampling.num_steps) == (3, 2, 2)


def test_what_is_finished_is_skipped_and_what_fails_stops_nothing(tmp_path: Path) -> None:
    path = listed(tmp_path, *({"source": SOURCE, "target": f"{TARGET} {i}"} for i in range(3)))
    seen: list[str] = []

    def fragile(run: EditRun, out: Path) -> None:
        seen.append(run.target[-1])
        if run.target.endswith("1") and len(seen) < 4:
            (out / "half.mp4").touch()
            raise RuntimeError("no memory")
        made(run, out)

    with pytest.raises(ValueError, match=r"^1 of 3 edits failed, .* \(0002: RuntimeError: no memory\)$"):
        settle(path, tmp_path / "out", fragile)
    assert seen == ["0", "1", "2"]
    assert sorted(os.listdir(tmp_path / "out")) == ["0001", "0003"], "what failed leaves nothing"
    settle(path, tmp_path / "out", fragile)
    assert seen == ["0", "1", "2", "1"], "only that one again"
    settle(path, tmp_path / "out", fragile)
    assert len(seen) == 4


def test_a_killed_edit_is_made_again(tmp_path: Path) -> None:
    path = listed(tmp_path, {"source": SOURCE, "target": TARGET})

    def killed(run: EditRun, out: Path) -> None:
        (out / "edited.mp4").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settle(path, tmp_path / "out", killed)
    settle(path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "0001").iterdir()] == ["card.json"]


def test_a_list_that_changed_does_not_pass_for_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settle(listed(tmp_path, {"source": SOURCE, "target": TARGET}), out)
    changed = listed(tmp_path, {"source": SOURCE, "target": "something else"})
    with pytest.raises(ValueError, match=r"0001 holds another edit than line 1 .* differs in target\)"):
        settle(changed, out)
    with pytest.raises(ValueError, match=r"differs in target, seed\)"):
        settle(changed, out, words=[*WORDS, "seed=3"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], r"edits\.jsonl, line 1 is no JSON"),
        (["[1]"], "line 1 is no edit; write {"),
        ([{"target": "x"}, {"out": "y"}], "line 2 has out, which belongs to the list"),
        ([{"targte": "x"}], "line 1: targte is not a key; did you mean target"),
        ([{"method": "animatediff"}], "line 1: .*animatediff"),
        ([{"method": "instruct_pix2pix", "instruction": ""}], "line 1: .* is told what to do"),
        ([{"method": "tune_a_video"}], "line 1: .* edits with a checkpoint tuned on the clip"),
        ([{"name": "a/b"}], r"name \(.*line 1\) names one folder and holds no /"),
        ([{"name": "a"}, {"name": "a"}], "names two edits a; give each line another name"),
        ([""], "holds no edit; write one in JSON on every line"),
    ],
)
def test_a_wrong_line_is_refused_before_the_first_edit(tmp_path: Path, lines: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settle(listed(tmp_path, *lines), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_is_for_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a list, which 'vgen edit' makes one after another"):
        edit(EditRun(method=PromptToPrompt(), edits="x.jsonl"))


def test_from_the_command_line(clip: str, tmp_path: Path) -> None:
    """Two real edits and one of a video that is not there."""
    path = listed(
        tmp_path,
        {"video": clip, "target": TARGET},
        {"video": "gone.mp4", "target": TARGET, "name": "gone"},
        {"video": clip, "target": "a green circle", "method": "masactrl", "sampling": {"num_steps": 5}},
    )
    command = [sys.executable, "-m", "vgen", "edit", f"edits={path}", f"out={tmp_path / 'out'}", *WORDS]
    ran = subprocess.run(
        [*command, f"source={SOURCE}", "sampling.guidance=2"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2, "refused, with a sentence"
    assert "1 of 3 edits failed" in ran.stderr
    assert "gone: video=gone.mp4 is no file" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "3 edits in " in ran.stdout
    cards = [json.loads((tmp_path / "out" / n / "card.json").read_text()) for n in ("0001", "0003")]
    assert [card["method_name"] for card in cards] == ["prompt_to_prompt", "masactrl"]
    assert {p.name for p in (tmp_path / "out" / "0003").iterdir()} >= {"edited.mp4", "side_by_side.mp4"}
    assert not (tmp_path / "out" / "gone").exists()
