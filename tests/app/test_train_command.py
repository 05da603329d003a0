"""``vgen train`` as a command: what it refuses and how, what it prints, what it leaves in a run's folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml

from vgen.app import cli
from vgen.app.loading import open_checkpoint
from vgen.app.train import claim
from vgen.formats.adapter import load_adapter
from vgen.training.lock import RunLock

TINY = [
    "method.motion.heads=4",
    "backbone=blank",
    "backbone.blank=toybox",
    "trainer=cpu",
    "trainer.num_threads=1",
    "data.window.num_frames=2",
]
ONE_STEP = [*TINY, "debug=smoke", "trainer.max_steps=1", "trainer.preflight=false", "optim.ema_decay=0"]


@pytest.fixture
def vgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command in this process; gives its exit code. What it sets for the process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # a run logs to the stream of its own test
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)
    for name in [n for n in os.environ if n.startswith(("SLURM_", "LOCAL_RANK", "NODE_RANK", "VGEN_"))]:
        monkeypatch.delenv(name)
    for name in ("HYDRA_FULL_ERROR", "VGEN_RUN_STAMP", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    return lambda *arguments: cli.run("train", list(arguments))


REFUSED = {
    "a misspelt key": (
        ["trainer.max_step=3"],
        "trainer.max_step is not a key; did you mean trainer.max_steps?",
    ),
    "an unknown method": (
        ["method=animatedif"],
        "method=animatedif is not an option; did you mean animatediff?",
    ),
    "an impossible value": (["optim.lr=-1"], "optim.lr must be positive, got -1"),
    "a value of another type": (["trainer.max_steps=many"], "trainer.max_steps: Value 'many'"),
    "an unknown precision": (
        ["trainer.precision=bf17"],
        "Invalid value 'bf17', expected one of [fp32, bf16, fp16]",
    ),
    "a key added with a plus": (
        ["+trainer.max_step=3"],
        "trainer.max_step is not a key; did you mean trainer.max_steps?",
    ),
    "a section added with a plus": (
        ["+foo=1"],
        "foo is not a key; the top level has backbone, callbacks, data,",
    ),
    "a seed that numpy cannot use": (["run.seed=-1"], "run.seed must lie in 0..4294967295, got -1"),
    "a file where a folder is due": (
        ["backbone.path=a.ckpt", "run.name=a"],
        "unfold it with 'vgen export from=a.ckpt to=image_model",
    ),
    "several processes without a strategy": (
        ["trainer.devices=2"],
        "trainer.strategy=single runs one process, got devices=2",
    ),
    "a name that leads elsewhere": (
        ["run.name=../../x"],
        "run.name names one folder and holds no / or \\, got '../../x'",
    ),
    "no data": ([*TINY, "run.name=a"], "data.path names no folder of shards; make one with 'vgen prepare'"),
    "data that is not there": ([*TINY, "run.name=a", "data.path=nowhere"], "nowhere"),
    "nothing to start from": (
        [*TINY, "run.init_from=nowhere", "run.name=a"],
        "run.init_from=nowhere is no file",
    ),
    "other words out of a cache": (
        ["data.cache=true", "data.paraphrases=true"],
        "does not keep; set data.cache=false",
    ),
    "no image model": (["backbone.path=nowhere", "run.name=a"], "backbone nowhere is no folder"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    vgen, capfd: pytest.CaptureFixture, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "a.ckpt").touch()
    assert vgen(*arguments) == cli.REFUSED
    said = capfd.readouterr().err.strip()
    assert said.startswith("vgen train: ")
    assert sentence in said
    assert "\n" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "a").exists(), "a refused run keeps its name taken"


@pytest.mark.parametrize(
    "where",
    [
        "vgen.training.run.loaders",
        "vgen.training.run.loggers",
        "vgen.training.run.trainer",
        "vgen.training.run.Card.of",
    ],
)
def test_a_run_that_ends_before_its_first_step_leaves_its_name_free(
    vgen, tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise RuntimeError("late in set-up")

    monkeypatch.setattr(where, ends)
    with pytest.raises(RuntimeError, match="late in set-up"):
        vgen(*ONE_STEP, f"data.path={toy_shards}", "run.name=a")
    assert not (tmp_path / "runs" / "a").exists()


def test_a_run_with_fewer_held_out_clips_than_processes_leaves_its_name_free(
    vgen, capfd: pytest.CaptureFixture, tmp_path: Path, toy_shards: Path
) -> None:
    wish = [a for a in ONE_STEP if a not in ("trainer=cpu", "debug=smoke")]
    two = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "data.val_clips=1",
        f"data.path={toy_shards}",
        "data.cache=false",
    ]
    assert vgen(*wish, *two, "run.name=a") == cli.REFUSED
    assert "1 held-out clips cannot be shared by 2 processes" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "a").exists()


def test_several_processes_in_a_multirun_are_refused(vgen, capfd: pytest.CaptureFixture) -> None:
    wish = [a for a in TINY if a != "trainer=cpu"]
    assert vgen("--multirun", *wish, "trainer=ddp", "trainer.accelerator=cpu", "run.seed=0,1") == cli.REFUSED
    assert "vgen train: --multirun runs its jobs in one process" in capfd.readouterr().err


def test_a_run_that_exists_is_not_overwritten(vgen, capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    claim(tmp_path / "runs" / "a", {}, resume=False)
    assert vgen(*TINY, "run.name=a") == cli.REFUSED
    assert (
        "run runs/a exists; continue it with run.resume=auto or choose another run.name"
        in capfd.readouterr().err
    )
    assert (tmp_path / "runs" / "a" / "config.yaml").is_file()


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_run_at_work_is_left_alone(vgen, capfd: pytest.CaptureFixture, tmp_path: Path, resume: str) -> None:
    with RunLock(tmp_path / "runs" / "a"):
        assert vgen(*TINY, "run.name=a", f"run.resume={resume}") == cli.REFUSED
    assert f"run runs/a belongs to process {os.getpid()} on" in capfd.readouterr().err
    assert not (tmp_path / "runs" / "a").exists()


def test_a_run_is_resumed_with_its_own_settings(vgen, capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    claim(
        tmp_path / "runs" / "a", {"method": {"heads": 8}, "backbone": {}, "optim": {"lr": 1.0}}, resume=False
    )
    assert vgen(*TINY, "run.name=a", "run.resume=auto") == cli.REFUSED
    assert "run runs/a was started with other settings for method, backbone, optim" in capfd.readouterr().err


def test_cfg_job_prints_and_runs_nothing(vgen, capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert vgen("--cfg", "job", "trainer.max_steps=7", "run.name=a") == cli.DONE
    printed = yaml.safe_load(capfd.readouterr().out)
    assert printed["trainer"]["max_steps"] == 7
    assert {"method", "backbone", "data", "optim", "logger", "callbacks", "run"} <= set(printed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_multirun_gives_each_job_a_folder_with_its_resolved_settings(
    vgen, capfd: pytest.CaptureFixture, tmp_path: Path, toy_shards: Path
) -> None:
    assert vgen("-m", *ONE_STEP, f"data.path={toy_shards}", "run.name=a", "run.seed=4,5") == cli.DONE
    for job, seed in ((0, 4), (1, 5)):
        folder = tmp_path / "runs" / f"a-{job}"
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert saved["run"]["seed"] == seed
        assert saved["backbone"]["blank"] == "toybox"
        assert saved["data"]["path"] == str(toy_shards)
        assert (folder / "adapter.safetensors").is_file()
    assert "run: runs/a-1" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_may_start_from_what_another_learnt(
    vgen, capfd: pytest.CaptureFixture, tmp_path: Path, toy_shards: Path
) -> None:
    data, still = f"data.path={toy_shards}", ["optim.lr=1e-12", "run.init_from=runs/a"]
    assert vgen(*ONE_STEP, data, "run.name=a", "optim.lr=0.1") == cli.DONE
    assert vgen(*ONE_STEP, data, "run.name=b", *still, "method.motion.num_positions=48") == cli.DONE
    a, b = (load_adapter(tmp_path / "runs" / name / "adapter.safetensors") for name in "ab")
    silent = [name for name in a[0] if name.endswith("proj_out.weight")]
    assert all(a[0][name].abs().max() > 0.01 for name in silent), "fresh layers are silent: these are not"
    for name, value in a[0].items():
        torch.testing.assert_close(b[0][name], value, rtol=0, atol=1e-6)
    assert b[1].run["run"]["init_from"] == "runs/a"
    assert open_checkpoint("runs/b").model.source == "blank:toybox:0", (
        "a card names random weights so that they are found again"
    )

    kept = [*ONE_STEP, data, "run.name=e", *still, "trainer.checkpoint_every_steps=1"]
    assert vgen(*kept) == cli.DONE
    (tmp_path / "runs" / "a").rename(tmp_path / "runs" / "elsewhere")
    assert vgen(*kept, "trainer.max_steps=2", "run.resume=auto") == cli.DONE, (
        "a requeued run asks again for what it started from"
    )
    (tmp_path / "runs" / "elsewhere").rename(tmp_path / "runs" / "a")

    refused = {
        "other heads": (["method.motion.heads=2"], "holds layers with heads=4, this run's have other values"),
        "other sites": (["method.mid_block=true"], "adapter lacks"),
        "another method": (
            ["method=tune_a_video", "~method.motion"],
            "was made by method animatediff, this run's is tune_a_video",
        ),
        "the image model itself": (
            ["method=latent_diffusion", "~method.motion"],
            "starts from backbone.path=FOLDER",
        ),
        "nothing there": (["run.init_from=runs/c"], "run.init_from=runs/c is no file"),
    }
    for arguments, sentence in refused.values():
        without = [x for x in ONE_STEP if not (x.startswith("method.") and "~method.motion" in arguments)]
        capfd.readouterr()
        assert (
            vgen(*without, data, "run.name=d", *still, *(x for x in arguments if x != "~method.motion"))
            == cli.REFUSED
        )
        assert sentence in capfd.readouterr().err
        assert not (tmp_path / "runs" / "d").exists()
