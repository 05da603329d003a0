"""What vgen submit asks of Slurm, and what it refuses before anything waits in a queue."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vgen.app import cli
from vgen.app.submit import ALONE, RANKED, Asked, read, submit
from vgen.app.sweep import read_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def options(*words: str, verb: str = "train") -> list[str]:
    """Of the command that would be run, without the first two words."""
    return shlex.split(submit(verb, [*words, "dry_run=true"]))[2:]


def test_a_training_gets_one_process_per_gpu() -> None:
    asked = ["slurm.nodes=2", "slurm.gpus=8", "slurm.time=1-00:00:00", "slurm.mem=400G", "slurm.cpus=12"]
    assert options(*asked, "trainer=deepspeed_zero2", "data.path=data") == [
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=12",
        "--mem=400G",
        "--time=1-00:00:00",
        "slurm/train.sbatch",
        "trainer=deepspeed_zero2",
        "data.path=data",
    ]


def test_a_verb_of_one_process_is_named_to_its_script() -> None:
    assert options("slurm.cpus=16", "data.path=videos", "out=shards", verb="prepare") == [
        "--job-name=vgen-prepare",
        "--cpus-per-task=16",
        "slurm/alone.sbatch",
        "prepare",
        "data.path=videos",
        "out=shards",
    ]


def test_the_doctor_gets_one_process_per_gpu_as_a_training_does() -> None:
    assert options("slurm.nodes=2", "slurm.gpus=8", verb="doctor") == [
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "slurm/doctor.sbatch",
    ]


def test_a_sweep_is_an_array_of_its_trials() -> None:
    found = options("slurm.gpus=1", "lr", "data.path=data", verb="sweep")
    assert f"--array=0-{read_sweep('lr').num_trials - 1}" in found
    assert found[-3:] == ["sweep", "lr", "data.path=data"]


def test_every_verb_has_its_script() -> None:
    for verb in RANKED:
        assert (ROOT / "slurm" / f"{verb}.sbatch").is_file()
    assert (ROOT / "slurm" / "alone.sbatch").is_file()
    assert set(RANKED + ALONE) <= set(cli.VERBS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm.gpus=8", "slurm.tasks=1"], "slurm.tasks=1 processes on slurm.gpus=8 GPUs of each node"),
        (["slurm.time=tomorrow"], "slurm.time=tomorrow is not minutes, hours:minutes:seconds"),
        (["slurm.mem=much"], "slurm.mem=much is not memory per node"),
        (["slurm.nodes=0"], "slurm.nodes=0 is not a number of at least 1"),
        (["slurm.array=a-b"], "slurm.array=a-b is not numbers as 0-15"),
        (["slurm.gpu=8"], "slurm.gpu is not a key of vgen submit.*slurm.gpus|gpus"),
        (["trainer.max_step=5"], "trainer.max_step"),
    ],
)
def test_what_cannot_be_is_refused_before_it_waits(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        submit("train", [*words, "dry_run=true"])


def test_one_process_is_not_spread_over_nodes() -> None:
    with pytest.raises(ValueError, match="this verb is one process"):
        submit("prepare", ["slurm.nodes=2", "dry_run=true"])
    with pytest.raises(ValueError, match="name the sweep to submit"):
        submit("sweep", ["dry_run=true"])
    with pytest.raises(ValueError, match="methods is no verb that is submitted"):
        read("methods", [])
    with pytest.raises(ValueError, match="dry_run=ture is neither true nor false"):
        read("train", ["dry_run=ture"])
    with pytest.raises(ValueError, match="whose trials W&B chooses; only method: grid can be an array"):
        submit("sweep", ["search", "dry_run=true"])


def test_elsewhere_than_in_the_checkout_there_are_no_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="submit from vgen's checkout"):
        submit("train", ["dry_run=true"])


def test_without_slurm_the_command_can_still_be_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", ["vgen"])
    assert cli.run("submit", ["train", "slurm.gpus=1"]) == 2
    assert "sbatch is not on this machine; run vgen submit where Slurm is" in capsys.readouterr().err
    assert cli.run("submit", ["train", "slurm.gpus=1", "dry_run=true"]) == 0
    assert capsys.readouterr().out.startswith("sbatch --parsable --ntasks-per-node=1 --gpus-per-node=1 ")


def test_time_is_as_slurm_writes_it() -> None:
    for time in ("30", "10:00", "24:00:00", "2-12", "7-00:00:00"):
        assert f"--time={time}" in Asked(time=time).options(ranked=True)


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_sound_shell(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed here")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_more_gpus_than_processes_end_a_job_at_once(tmp_path: Path) -> None:
    """Without it eight GPUs would be paid for and one used."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_NTASKS_PER_NODE": "1",
    }
    script = str(ROOT / "slurm" / "train.sbatch")
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("train.sbatch: 1 processes on 8 GPUs of each node; add --ntasks-per-node=8\n")
