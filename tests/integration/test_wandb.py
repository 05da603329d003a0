"""Weights & Biases without a network: what is recorded can be read back, and nothing that is lacking stops a run."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from vgen.training.records import LoggerSettings, WandbMode, effective_mode

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Of a ``.wandb`` file: seven bytes of its own, then the log format of LevelDB (blocks of 32 KiB; checksum, length, kind, data)."""
    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        chunk = data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        parts = chunk if kind in (FULL, FIRST) else parts + chunk
        if kind in (FULL, LAST):
            yield Record.FromString(parts)


def test_a_record_spans_blocks(tmp_path: Path) -> None:
    """The reader above, on a file made by the rule."""
    whole = Record(num=7)
    whole.run.display_name = "x" * 40000
    payload = whole.SerializeToString()
    room = BLOCK - 2 * HEADER
    first, last = payload[:room], payload[room:]
    chunks = [b"\0" * 4 + len(c).to_bytes(2, "little") + bytes([kind]) + c for c, kind in ((first, FIRST), (last, LAST))]
    (tmp_path / "run.wandb").write_bytes(b":W&B\xe1\xbe\0" + b"".join(chunks))
    assert list(records(tmp_path / "run.wandb")) == [whole]


@pytest.mark.slow
def test_offline_runs_can_be_read_back_and_go_on_as_one(train, environment, tmp_path: Path) -> None:
    keyless = environment(WANDB_MODE="", NETRC=str(tmp_path / "none"), HOME=str(tmp_path))
    keyless = {name: value for name, value in keyless.items() if name not in ("WANDB_MODE", "WANDB_API_KEY")}
    train("logger=offline", "trainer.max_steps=2", env=keyless)
    run_id = (tmp_path / "run" / "run_id.txt").read_text()
    resumed = train("logger=online", "run.resume=auto", env=keyless)
    assert "W&B: no key found, so this run is recorded offline" in resumed.stderr
    assert "wandb sync" in resumed.stderr
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {path.stem for path in files} == {f"run-{run_id}"}
    for path, steps in zip(files, ([1, 2], [3]), strict=True):
        found = list(records(path))
        assert {r.run.run_id for r in found if r.HasField("run")} == {run_id}
        config = {u.key: json.loads(u.value_json) for r in found if r.HasField("run") for u in r.run.config.update}
        assert config["optim"]["ema_decay"] == 0.9
        assert config["run"]["name"] == "run"
        rows = [r.history.item for r in found if r.HasField("history")]
        history = [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        losses = [row["train/loss"] for row in history if "train/loss" in row]
        assert len(losses) == len(steps)
        assert all(0 < loss < 10 for loss in losses)


UNREACHABLE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(("variables", "lack"), [({}, "no key found"), (UNREACHABLE, "the server cannot be reached")])
def test_online_without_a_key_or_a_network_is_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, variables: dict[str, str], lack: str
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"NETRC": str(tmp_path / "none")} | variables).items():
        monkeypatch.setenv(name, value)
    assert effective_mode(LoggerSettings(wandb=WandbMode.ONLINE)) is WandbMode.OFFLINE
    assert lack in caplog.text
    assert "wandb sync" in caplog.text
