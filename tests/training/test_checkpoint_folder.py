"""A checkpoint is what was written or it is not taken, whatever befell its files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vgen.formats.tensor_file import Entry, hashed
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import MANIFEST, MOMENTS, STATE, WEIGHTS, State, Unsound

STEP = 4


def state(step: int = STEP, **more: Any) -> State:
    usual: dict[str, Any] = {
        "samples": 2 * step,
        "record": {"seed": 3},
        "optimizer": "adamw",
        "optimizer_steps": {"a": step},
        "scheduler": {"last_epoch": step},
    }
    return State(step=step, **usual | more)


def shelves(value: float = 1.0) -> dict[str, dict[str, Entry]]:
    weights = {"a": Entry.of(torch.full((64, 64), value)), "b": Entry.of(torch.arange(7.0))}
    return {WEIGHTS: weights, MOMENTS: {"exp_avg.a": Entry.of(torch.zeros(64, 64))}}


def step_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:07d}"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with checkpoints of steps 2 and 4."""
    for step in (2, STEP):
        room.write(step_folder(tmp_path, step), shelves(float(step)), state(step))
    return tmp_path


def test_what_is_written_is_read(two: Path) -> None:
    found, passed_over = room.newest(two)
    assert found is not None
    assert not passed_over
    assert found.state == state()
    assert found.names == {WEIGHTS: ["a", "b"], MOMENTS: ["exp_avg.a"]}
    assert torch.equal(found.tensors(WEIGHTS)["a"], torch.full((64, 64), float(STEP)))
    assert sorted(path.name for path in two.iterdir()) == ["step-0000002", "step-0000004"]


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


@pytest.mark.parametrize("name", [*(WEIGHTS, MOMENTS), STATE, MANIFEST])
def test_a_flipped_bit_is_noticed_and_the_older_one_taken(two: Path, name: str, tmp_path: Path) -> None:
    """Forty seeded places in each file."""
    newest = step_folder(two, STEP)
    sound = (newest / name).read_bytes()
    chance = np.random.default_rng(len(name))
    for _ in range(40):
        flip(newest / name, int(chance.integers(len(sound))), int(chance.integers(8)))
        found, passed_over = room.newest(two)
        assert found is not None
        assert (found.state.step, len(passed_over)) == (2, 1)
        assert "step-0000004" in str(passed_over[0])
        (newest / name).write_bytes(sound)
    assert room.newest(two)[1] == []


@pytest.mark.parametrize("name", [WEIGHTS, STATE, MANIFEST])
def test_zeroed_pages_cuts_and_absence_are_noticed(two: Path, name: str) -> None:
    newest = step_folder(two, STEP)
    sound = (newest / name).read_bytes()
    page = min(4096, len(sound))
    for harmed in (b"\0" * page + sound[page:], sound[:-1], sound[: len(sound) // 2], b"", sound + b"\0"):
        (newest / name).write_bytes(harmed)
        if harmed == sound + b"\0" and name == MANIFEST:
            assert isinstance(room.newest(two)[1][0], Unsound)
        with pytest.raises(Unsound):
            room.opened(newest)
    (newest / name).unlink()
    with pytest.raises(Unsound):
        room.opened(newest)


def rewritten(folder: Path, name: str, payload: bytes) -> None:
    """The file changed and its manifest with it, as by somebody who means it."""
    (folder / name).write_bytes(payload)
    manifest = json.loads((folder / MANIFEST).read_text())
    written = hashed(folder / name)
    manifest["files"][name] = {"num_bytes": written.num_bytes, "sha256": written.sha256}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "payload", "says"),
    [
        (WEIGHTS, b"PK\x03\x04 a pickle in a zip", "is no safetensors file"),
        (STATE, b"[" * 100_000, "cannot be read"),
        (STATE, b'{"step": "4"}', "is no state of a run"),
        (STATE, json.dumps({**vars(state()), "step": "4"}).encode(), "its step is '4'"),
        ("../../x", b"", "is no file of a checkpoint"),
        (MANIFEST, b"[]", "is no manifest"),
        (MANIFEST, b'{"format": "vgen-checkpoint-9", "files": {}}', "this vgen reads vgen-checkpoint-1"),
        (MANIFEST, b'{"format": "vgen-checkpoint-1", "files": {}}', "does not name state.json, weights"),
    ],
)
def test_a_foreign_file_is_a_sentence(two: Path, name: str, payload: bytes, says: str) -> None:
    newest = step_folder(two, STEP)
    if name == MANIFEST:
        (newest / name).write_bytes(payload)
    else:
        rewritten(newest, name, payload)
    with pytest.raises(Unsound, match=says):
        room.opened(newest)
    (two.parent / "x").unlink(missing_ok=True)


def test_a_checkpoint_replaces_one_of_its_step_whole(two: Path) -> None:
    newest = step_folder(two, STEP)
    (newest / WEIGHTS).write_bytes(b"")
    room.write(newest, shelves(9.0), state())
    found, _ = room.newest(two)
    assert found is not None
    assert float(found.tensors(WEIGHTS)["a"][0, 0]) == 9
    assert len(list(two.iterdir())) == 2, "the former one is gone"


def test_what_fails_leaves_nothing_and_harms_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn() -> torch.Tensor:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    broken = shelves() | {MOMENTS: {"exp_avg.a": Entry(torch.float32, (2,), torn)}}
    with pytest.raises(OSError, match="No space left"):
        room.write(step_folder(two, STEP), broken, state())
    assert sorted(path.name for path in two.iterdir()) == ["step-0000002", "step-0000004"]
    assert room.newest(two)[1] == []
    usage = shutil.disk_usage(two)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left"):
        room.write(step_folder(two, 6), shelves(), state(6))


def test_leftovers_are_removed_and_unsound_ones_set_aside(two: Path) -> None:
    (two / ".step-0000006.1.tmp").mkdir()
    (two / ".step-0000006.1.tmp" / WEIGHTS).write_bytes(b"half")
    assert room.remove_leftovers(two) == 4
    assert room.set_aside(step_folder(two, STEP)).name == "step-0000004.unsound"
    assert [path.name for path in room.steps(two)] == ["step-0000002"]


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9_999_999, 10_000_000):
        room.write(step_folder(tmp_path, step), shelves(), state(step))
    found, _ = room.newest(tmp_path)
    assert found is not None
    assert found.state.step == 10_000_000
    room.point_to(found.folder)
    assert (tmp_path / "LATEST").read_text() == "step-10000000\n"
