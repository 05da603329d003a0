"""The doctor: every lack comes with its remedy, secrets stay secret, and only what is broken fails."""

import sys
from pathlib import Path

import pytest

from vgen.app import checkups, doctor
from vgen.app.checkups import Finding, Reply, State


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vgen doctor"])


TORCH = {"version": "2.13.0+cpu", "cuda": None, "hip": None, "gpus": [], "bf16": None, "num_threads": 2}


@pytest.mark.slow
def test_this_machine_gets_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    subjects = ["Python", "torch", "GPU", "image models", "Lightning", "DeepSpeed", "video", "W&B", "Slurm", "disk", "memory"]
    assert [subject for subject in [*subjects, "toybox model"] if subject not in printed] == []


def test_exit_code_is_one_only_when_something_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lacks = [Finding("GPU", State.ABSENT, "none", "none needed"), Finding("disk", State.CARE, "[3 GiB]", "free some")]
    monkeypatch.setattr(doctor, "examine", lambda: lacks)
    assert doctor.main() == 0
    assert "[3 GiB]" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda: [*lacks, Finding("torch", State.BROKEN, "No module named 'torch'", "make setup")])
    assert doctor.main() == 1
    assert "until this is mended: torch." in capsys.readouterr().out


def test_probe_returns_values_errors_and_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkups.PROBES, "works", "say(version='1')")
    monkeypatch.setitem(checkups.PROBES, "absent", "import no_such_library")
    monkeypatch.setitem(checkups.PROBES, "crashes", "import os; os._exit(3)")
    replies = checkups.probe(["works", "absent", "crashes"])
    assert replies["works"] == Reply({"version": "1"}, None)
    assert replies["absent"].error == "ModuleNotFoundError: No module named 'no_such_library'"
    assert "status 3" in replies["crashes"].error


def test_torch_too_old_is_broken() -> None:
    assert checkups.torch(Reply({**TORCH, "version": "2.9.1"}, None))[0].state is State.BROKEN
    assert checkups.torch(Reply(TORCH, None))[0].state is State.WORKS


@pytest.mark.parametrize(("cuda", "word"), [(None, "CPU build"), ("13.0", "does not serve CUDA 13.0")])
def test_a_driver_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch, cuda: str | None, word: str) -> None:
    monkeypatch.setattr(checkups, "_driver", lambda: "535.1")
    gpu = checkups.torch(Reply({**TORCH, "cuda": cuda}, None))[1]
    assert gpu.state is State.CARE
    assert word in gpu.found
    assert "VGEN_TORCH_INDEX" in gpu.remedy


def test_malicious_lightning_is_refused_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "installed", lambda package: "2.6.3" if package == "lightning" else "2.6.6")
    probed = []
    monkeypatch.setattr(checkups, "probe", lambda names: probed.extend(names) or dict.fromkeys(names, Reply(TORCH, "not run")))
    broken = [finding for finding in doctor.examine() if finding.subject == "Lightning"]
    assert broken[0].state is State.BROKEN
    assert "lightning 2.6.3" in broken[0].found
    assert "lightning" not in probed


def test_wandb_key_is_seen_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    [finding] = checkups.wandb()
    assert "key present" in finding.found
    assert "secret" not in repr(finding)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    assert checkups.wandb()[0].state is State.ABSENT


def test_a_mismatched_torchvision_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "installed", lambda package: "0.28")
    [finding] = checkups.torchvision(Reply({}, "RuntimeError: operator torchvision::nms does not exist"))
    assert finding.state is State.BROKEN
    assert "uninstall torchvision" in finding.remedy


def test_every_remedy_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever does not work says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(checkups, "probe", lambda names: dict.fromkeys(names, Reply({}, "broken")))
    findings = doctor.examine()
    assert all(finding.remedy for finding in findings if finding.state is not State.WORKS)
    assert Path(sys.prefix).name in findings[0].found
