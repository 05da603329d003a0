"""Weights & Biases without a network: what is recorded can be read back, and nothing that is lacking stops a
run."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import av
import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger
from wandb.proto.wandb_internal_pb2 import Record

from vgen.app.evaluate import EvaluateRun
from vgen.app.judging.page import merit
from vgen.app.judging.results import Result
from vgen.app.judging.tracking import mirror
from vgen.data.mp4 import decode_mp4
from vgen.training import offline_runs
from vgen.training.records import LoggerSettings, WandbMode, effective_mode, loggers, recorded

VGEN = Path(sys.executable).with_name("vgen")


def records(path: Path) -> Iterator[Record]:
    return (Record.FromString(data) for data in offline_runs.read_records(path))


@pytest.mark.parametrize("size", [0, 1, 32760, 32761, 40000, 100000])
def test_records_are_read_back_whatever_their_size(tmp_path: Path, size: int) -> None:
    """Law of the file: what was framed is read, across blocks and up to the last whole record."""
    found = [b"a", bytes(size), b"b" * 7, bytes(32768)]
    data = offline_runs.framed(found)
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "cut").write_bytes(data[:-3])
    assert list(offline_runs.read_records(tmp_path / "whole")) == found
    assert list(offline_runs.read_records(tmp_path / "cut")) == found[:-1]


@pytest.mark.slow
def test_offline_runs_can_be_read_back_and_go_on_as_one(train, environment, tmp_path: Path) -> None:
    keyless = environment(WANDB_MODE="", NETRC=str(tmp_path / "none"), HOME=str(tmp_path))
    keyless = {name: value for name, value in keyless.items() if name not in ("WANDB_MODE", "WANDB_API_KEY")}
    drawn = [
        "callbacks.prompts=[a red circle,a blue star]",
        "callbacks.every_steps=2",
        "callbacks.sampling.num_frames=2",
    ]
    small = [
        "callbacks.sampling.num_steps=1",
        "callbacks.sampling.width_px=32",
        "callbacks.sampling.height_px=32",
    ]
    train("logger=offline", "trainer.max_steps=2", *drawn, *small, env=keyless)
    run_id = (tmp_path / "run" / "run_id.txt").read_text()
    resumed = train("logger=online", "run.resume=auto", env=keyless)
    assert "W&B: no key found, so this run is recorded offline" in resumed.stderr
    assert "wandb sync" in resumed.stderr
    assert "WARNING" not in resumed.stderr  # nothing that a reader could do nothing about
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.stem for path in files] == [f"run-{run_id}"], "one run, one folder"
    for path in files:
        found = list(records(path))
        assert {r.run.run_id for r in found if r.HasField("run")} == {run_id}
        config = {
            u.key: json.loads(u.value_json) for r in found if r.HasField("run") for u in r.run.config.update
        }
        assert config["optim"]["ema_decay"] == 0.9
        assert config["run"]["name"] == "run"
        rows = [r.history.item for r in found if r.HasField("history")]
        history = [
            {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row}
            for row in rows
        ]
        [clips] = [row for row in history if "samples.videos" in row]
        assert clips["samples.captions"] == ["a red circle", "a blue star"]
        for clip in clips["samples.videos"]:
            assert decode_mp4((path.parent / "files" / clip["path"]).read_bytes()).shape == (2, 256, 256, 3)
        assert [row["_step"] for row in history] == list(range(len(history)))
        at = [row["trainer/global_step"] for row in history if "train/loss" in row]
        assert at == [0, 1, 2], "one curve"
        losses = [row["train/loss"] for row in history if "train/loss" in row]
        assert all(0 < loss < 10 for loss in losses)


def losses_of(path: Path) -> list[float]:
    items = [item for r in records(path) if r.HasField("history") for item in r.history.item]
    return [json.loads(i.value_json) for i in items if (i.key or ".".join(i.nested_key)) == "train/loss"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B reads its variables once a process: it forgets them before and after."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("offline")
def test_three_trainings_of_one_process_are_three_runs(tmp_path: Path) -> None:
    """The middle one fails, and its run says so; each is closed at its end."""
    settings = LoggerSettings(wandb=WandbMode.OFFLINE, group="three")
    for number in range(3):
        figures = loggers(settings, tmp_path / str(number), f"run-{number}", f"abcd123{number}", {})
        with contextlib.suppress(ArithmeticError), recorded(figures):
            figures[-1].log_metrics({"train/loss": float(number)}, step=1)
            if number == 1:
                raise ArithmeticError
        assert wandb.run is None
    for number in range(3):
        [file] = (tmp_path / str(number) / "wandb").glob(f"offline-run-*/run-abcd123{number}.wandb")
        assert losses_of(file) == [number]
        [run] = [r.run for r in records(file) if r.HasField("run")][:1]
        assert (run.display_name, run.run_group) == (f"run-{number}", "three")
        assert [r.exit.exit_code for r in records(file) if r.HasField("exit")] == [int(number == 1)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows = [r.history for r in records(path) if r.HasField("history")]
    return [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row.item} | {"num": row.step.num}
        for row in rows
    ]


@pytest.mark.usefixtures("offline")
def test_a_run_that_was_requeued_offline_is_one_run_with_one_curve(tmp_path: Path) -> None:
    """It was killed in step 5 with a checkpoint of step 3, and then again without a figure; what ``wandb
    sync`` is given is one folder."""
    settings = LoggerSettings(wandb=WandbMode.OFFLINE)

    def part(begin: int, end: int) -> None:
        figures = loggers(settings, tmp_path, "run", "abcd1234", {"optim": {"lr": begin}}, begin)
        with recorded(figures):
            for step in range(begin, end):
                figures[-1].log_metrics({"train/loss": begin + step / 100}, step=step)

    part(0, 5)
    [first] = (tmp_path / "wandb").glob("offline-run-*/run-abcd1234.wandb")
    first.write_bytes(first.read_bytes()[:-20])  # as SIGKILL leaves it
    part(3, 3)
    part(3, 6)
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-abcd1234.wandb")
    assert file == first
    rows = rows_of(file)
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["train/loss"] for row in rows] == [0, 0.01, 0.02, 3.03, 3.04, 3.05]
    assert [(row["num"], row["_step"]) for row in rows] == [(n, n) for n in range(6)]
    found = list(records(file))
    kinds = [record.WhichOneof("record_type") for record in found]
    assert [kinds.count(kind) for kind in ("run", "exit")] == [1, 1]
    assert [record.num for record in found] == list(range(1, len(found) + 1))
    assert json.loads(next(r for r in found if r.HasField("config")).config.update[-1].value_json) is not None
    assert (tmp_path / "wandb" / "latest-run").resolve() == file.parent.resolve()
    told = subprocess.run(
        [VGEN.with_name("wandb"), "sync", "--dry-run", *(tmp_path / "wandb").glob("offline-run-*")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    assert (told.stdout + told.stderr).count("run-abcd1234.wandb") == 1


@pytest.mark.usefixtures("offline")
def test_parts_that_are_uploaded_or_cannot_be_read_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LoggerSettings(wandb=WandbMode.OFFLINE)

    def part() -> None:
        figures = loggers(settings, tmp_path, "run", "abcd1234", {}, 1)
        with recorded(figures):
            figures[-1].log_metrics({"train/loss": 0.0}, step=1)

    part()
    [first] = (tmp_path / "wandb").glob("offline-run-*/run-abcd1234.wandb")
    first.with_name(f"{first.name}.synced").touch()
    time.sleep(1.1)  # folders are called after the second
    part()
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2, "uploaded already"

    def unknown(*_: Any) -> Iterator[bytes]:
        raise ValueError("no such format")

    time.sleep(1.1)
    monkeypatch.setattr(offline_runs, "join", unknown)
    part()
    assert "stay apart (no such format)" in caplog.text


@pytest.mark.usefixtures("offline")
def test_a_run_of_somebody_elses_stays_open(tmp_path: Path) -> None:
    theirs = wandb.init(mode="offline", dir=str(tmp_path), id="theirs00")
    with recorded(loggers(LoggerSettings(), tmp_path, "run", None, {})):
        pass
    assert wandb.run is theirs
    theirs.finish()


@pytest.mark.slow
def test_a_multirun_is_one_run_a_job_in_one_group_and_a_table(train, environment, tmp_path: Path) -> None:
    env = environment(WANDB_MODE="offline", HOME=str(tmp_path))
    done = train("-m", "optim.lr=1e-3,1e-2", "logger=offline", "run.name=mr", env=env)
    for job, rate in ((0, 1e-3), (1, 1e-2)):
        folder = tmp_path / f"mr-{job}"
        [file] = (folder / "wandb").glob("offline-run-*/*.wandb")
        assert file.stem == f"run-{(folder / 'run_id.txt').read_text().strip()}"
        assert f"{folder}/wandb/offline-run-*" in done.stderr, "what the terminal names is there"
        run = next(r.run for r in records(file) if r.HasField("run"))
        config = {u.key: json.loads(u.value_json) for u in run.config.update}
        assert (run.display_name, run.run_group, config["optim"]["lr"]) == (f"mr-{job}", "mr", rate)
        assert len(losses_of(file)) == 3
    shown = done.stdout[done.stdout.index("val/loss") :]
    assert shown.count("optim.lr=") == 2
    assert "trainer.max_steps" not in shown, "only settings that differ"


UNREACHABLE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("variables", "lack"), [({}, "no key found"), (UNREACHABLE, "the server cannot be reached")]
)
def test_online_without_a_key_or_a_network_is_offline(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    variables: dict[str, str],
    lack: str,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"NETRC": str(tmp_path / "none")} | variables).items():
        monkeypatch.setenv(name, value)
    assert effective_mode(LoggerSettings(wandb=WandbMode.ONLINE)) is WandbMode.OFFLINE
    assert lack in caplog.text
    assert "wandb sync" in caplog.text


class Forbidding(BaseHTTPRequestHandler):
    """As a proxy that lets nothing through."""

    def do_POST(self) -> None:
        self.send_response(403)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def forbidding() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Forbidding) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_refuses_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, forbidding: str
) -> None:
    for name in ("WANDB_MODE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "")  # put back as it was, whatever Lightning makes of it
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", forbidding)
    with caplog.at_level("INFO"):
        made = loggers(LoggerSettings(wandb=WandbMode.ONLINE), tmp_path, "run", "abcd1234", {"note": "test"})[
            -1
        ]
    assert isinstance(made, WandbLogger)
    made.log_metrics({"train/loss": 1.0}, step=1)
    wandb.finish()  # else what it hooked into standard error outlives it
    wandb.teardown()
    assert "W&B: the server takes no run (" in caplog.text
    assert "so this run is recorded offline" in caplog.text
    [file] = (tmp_path / "wandb").glob("offline-run-*/run-abcd1234.wandb")
    assert any(record.HasField("history") for record in records(file))


def summary_of(found: list[Record]) -> dict[str, Any]:
    return {
        i.key or ".".join(i.nested_key): json.loads(i.value_json)
        for r in found
        if r.HasField("summary")
        for i in r.summary.update
    }


@pytest.mark.slow
def test_an_evaluation_that_the_server_refuses_is_recorded_offline(
    environment, tmp_path: Path, forbidding: str
) -> None:
    command = [
        "evaluate",
        "adapter=untrained",
        "suite=smoke",
        "n=1",
        "suite.num_frames=2",
        "sampling.num_steps=1",
        "selftest=0",
    ]
    keyed = environment(WANDB_API_KEY="0" * 40, WANDB_BASE_URL=forbidding, HOME=str(tmp_path))
    keyed = {k: v for k, v in keyed.items() if k not in ("WANDB_MODE", "HTTPS_PROXY", "https_proxy")}
    wish = [VGEN, *command, "logger=online", "out=judged"]
    done = subprocess.run(wish, cwd=tmp_path, env=keyed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the server takes no run" in done.stderr + done.stdout
    [file] = (tmp_path / "judged").glob("wandb/offline-run-*/*.wandb")
    assert "exact" in summary_of(list(records(file)))


@pytest.mark.slow
def test_a_sweep_of_two_checkpoints_and_three_guidances_is_six_runs_and_one_leaderboard(
    environment, tmp_path: Path
) -> None:
    """One command, one process: every evaluation has a run of its own, with scalars in its summary and one
    table of clips that play."""
    command = [
        "evaluate",
        "-m",
        "adapter=untrained,shipped",
        "sampling.guidance=1,3,7.5",
        "suite=smoke",
        "sweep=first",
    ]
    small = [
        "n=1",
        "suite.num_frames=2",
        "sampling.num_steps=1",
        "selftest=1",
        "page.max_rows=2",
        "logger=offline",
        "logger.tags=[mine]",
    ]
    env = environment(WANDB_MODE="offline", HOME=str(tmp_path))
    done = subprocess.run(
        [VGEN, *command, *small], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = tmp_path / "outputs" / "sweeps" / "first"
    rows = json.loads((sweep / "leaderboard.json").read_text())["leaderboards"][0]["rows"]
    grid = {(name, guidance) for name in ("untrained", "shipped") for guidance in (1.0, 3.0, 7.5)}
    assert {(r["checkpoint"], r["sampler"]["guidance"]) for r in rows} == grid
    assert (sweep / "report" / "index.html").is_file()
    assert {r["unet_calls"] for r in rows} == {1, 2}, "without guidance the UNet is asked once"
    files = sorted(sweep.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(files) == len({path.stem for path in files}) == 6
    for path in files:
        check_run(path, json.loads((path.parents[2] / "summary.json").read_text()))


def check_run(path: Path, truth: dict[str, Any]) -> None:
    found = list(records(path))
    run = next(r.run for r in found if r.HasField("run"))
    assert (run.run_group, run.job_type, run.project) == ("first", "eval", "vgen")
    [name] = truth["checkpoints"]
    assert set(run.tags) == {"mine", "suite:smoke-v1", f"checkpoint:{name}", f"vgen:{truth['vgen']}"}
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert config["sampler"]["guidance"] == truth["sampler"]["guidance"]
    assert config["checkpoint"] == name
    scalars = summary_of(found)
    exact = truth["checkpoints"][name]["overall"]["exact"]
    assert [scalars[k] for k in ("exact", "exact/low", "exact/high")] == [
        exact["mean"],
        exact["low"],
        exact["high"],
    ]
    assert scalars["exact/iid"] == truth["checkpoints"][name]["buckets"]["iid"]["exact"]["mean"]
    assert scalars["cost/unet_calls"] == truth["checkpoints"][name]["cost"]["unet_calls"]
    history = [
        i.key or ".".join(i.nested_key) for r in found if r.HasField("history") for i in r.history.item
    ]
    assert {key.split(".")[0] for key in history if not key.startswith("_")} == {"clips"}, (
        "scalars belong into the summary"
    )
    files = {
        c.path: Path(c.local_path)
        for r in found
        if r.HasField("artifact")
        for c in r.artifact.manifest.contents
    }
    rows = json.loads(files["clips.table.json"].read_text())
    assert rows["columns"][:6] == ["id", "bucket", "caption", "seed", "truth", name]
    assert len(rows["data"]) == 2, "page.max_rows"
    worst = [merit(dict(zip(rows["columns"], row, strict=True))) for row in rows["data"]]
    assert worst == sorted(worst)
    for row in rows["data"]:
        check_video(files[row[4]["path"]])
        check_video(files[row[5]["path"]])


def check_video(path: Path) -> None:
    """What every browser plays, and no black."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 2)
    assert decode_mp4(path.read_bytes()).max() > 60


def test_a_trial_of_a_wandb_sweep_takes_one_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    two = [Result(Path("."), name, name, {}, {}) for name in ("a", "b")]
    with pytest.raises(
        ValueError, match="a trial of a W&B sweep is one run and takes one checkpoint, got a, b"
    ):
        mirror(EvaluateRun(adapter="untrained"), two, {})
