"""The doctor: every lack comes with its remedy, secrets stay secret, and only what is broken fails."""

import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from vgen.app import checkups, doctor, probes
from vgen.app.checkups import TOYBOX_FILES
from vgen.app.probes import Driver, Finding, Reply, State

BASH = shutil.which("bash")
TORCH = {"version": "2.13.0+cpu", "cuda": None, "hip": None, "gpus": [], "bf16": None, "num_threads": 2}
TORCH |= {"cpu": "AVX2", "cpu_bf16": False}


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vgen doctor"])


@pytest.mark.slow
def test_this_machine_gets_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    subjects = [
        "Python",
        "torch",
        "GPU",
        "image models",
        "Lightning",
        "DeepSpeed",
        "video",
        "W&B",
        "Slurm",
        "disk",
        "memory",
    ]
    assert [subject for subject in [*subjects, "toybox model"] if subject not in printed] == []


def test_exit_code_is_one_only_when_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacks = [
        Finding("GPU", State.ABSENT, "none", "none needed"),
        Finding("disk", State.CARE, "[3 GiB]", "free some"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _: lacks)
    assert doctor.main() == 0
    assert "[3 GiB]" in capsys.readouterr().out
    monkeypatch.setattr(
        doctor,
        "examine",
        lambda _: [*lacks, Finding("torch", State.BROKEN, "No module named 'torch'", "make setup")],
    )
    assert doctor.main() == 1
    assert "until this is mended: torch." in capsys.readouterr().out


def test_probe_returns_values_errors_and_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.PROBES, "works", "say(version='1')")
    monkeypatch.setitem(probes.PROBES, "absent", "import no_such_library")
    monkeypatch.setitem(probes.PROBES, "crashes", "import os; os._exit(3)")
    replies = probes.probe(["works", "absent", "crashes"])
    assert replies["works"] == Reply({"version": "1"}, None)
    assert replies["absent"].error == "ModuleNotFoundError: No module named 'no_such_library'"
    assert "status 3" in replies["crashes"].error


def test_torch_too_old_is_broken() -> None:
    assert checkups.torch(Reply({**TORCH, "version": "2.9.1"}, None))[0].state is State.BROKEN
    assert checkups.torch(Reply(TORCH, None))[0].state is State.WORKS


@pytest.mark.parametrize(
    ("has_it", "told"), [(True, "AVX2 with bf16"), (False, "AVX2 without bf16: on the CPU use fp32")]
)
def test_it_says_whether_the_cpu_has_bf16(has_it: bool, told: str) -> None:
    cpu = checkups.torch(Reply({**TORCH, "cpu_bf16": has_it}, None))[-1]
    assert (cpu.subject, cpu.state) == ("CPU", State.WORKS)
    assert told in cpu.found


@pytest.mark.parametrize(("cuda", "word"), [(None, "CPU build"), ("13.0", "does not serve CUDA 13.0")])
def test_a_driver_that_torch_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, word: str
) -> None:
    monkeypatch.setattr(probes, "driver", lambda: Driver("535.1"))
    gpu = checkups.torch(Reply({**TORCH, "cuda": cuda}, None))[1]
    assert gpu.state is State.CARE
    assert word in gpu.found
    assert "VGEN_TORCH_INDEX" in gpu.remedy


def test_malicious_lightning_is_refused_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "installed", lambda package: "2.6.3" if package == "lightning" else "2.6.6")
    probed = []
    monkeypatch.setattr(
        probes, "probe", lambda names: probed.extend(names) or dict.fromkeys(names, Reply(TORCH, "not run"))
    )
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


def test_the_login_is_that_of_this_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    monkeypatch.setattr(checkups.sys, "executable", str(tmp_path / "python"))
    assert checkups.wandb()[0].remedy.endswith("for online: wandb login")
    (tmp_path / "wandb").touch()
    assert checkups.wandb()[0].remedy.endswith(f"for online: {tmp_path}/wandb login")


def test_a_mismatched_torchvision_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "installed", lambda package: "0.28")
    [finding] = checkups.torchvision(Reply({}, "RuntimeError: operator torchvision::nms does not exist"))
    assert finding.state is State.BROKEN
    assert "uninstall torchvision" in finding.remedy


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{BASH}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, on a machine whose patience is short."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(probes, "PATIENCE_SECONDS", 0.5)
    return tmp_path


HANGS = "while :; do :; done"


def test_a_driver_in_trouble_is_a_warning_in_its_own_words(programs: Path) -> None:
    program(
        programs, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
    )
    gpu = checkups.torch(Reply(TORCH, None))[1]
    assert (gpu.state, gpu.found) == (
        State.CARE,
        "nvidia-smi failed (Failed to initialize NVML: Driver/library version mismatch)",
    )
    assert "restart the machine" in gpu.remedy
    program(programs, "nvidia-smi", "exit 9")
    assert checkups.torch(Reply(TORCH, None))[1].found == "nvidia-smi failed (status 9)"
    program(programs, "nvidia-smi", "echo 570.1")
    assert checkups.torch(Reply(TORCH, None))[1].found == "driver 570.1, but torch is a CPU build"


def test_programs_that_hang_are_findings(programs: Path) -> None:
    for name in ("nvidia-smi", "sinfo", "sbatch"):
        program(programs, name, HANGS)
    gpu, [slurm] = checkups.torch(Reply(TORCH, None))[1], checkups.slurm()
    assert (gpu.state, gpu.found) == (State.CARE, "nvidia-smi did not answer within 0.5 s")
    assert (slurm.state, slurm.found) == (State.CARE, "installed, but sinfo did not answer within 0.5 s")
    assert gpu.remedy
    assert slurm.remedy


def test_an_import_that_takes_long_is_slow_and_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answered before patience ended has answered."""
    monkeypatch.setattr(probes, "PATIENCE_SECONDS", 3)
    monkeypatch.setattr(checkups, "installed", lambda package: "1.0")
    monkeypatch.setitem(probes.PROBES, "quick", "say(version='1')")
    monkeypatch.setitem(probes.PROBES, "slow", "import time; time.sleep(60)")
    replies = probes.probe(["quick", "slow"])
    assert replies["quick"] == Reply({"version": "1"}, None)
    late = replies["slow"]
    assert (late.error, late.slow) == ("did not import within 3 s", True)
    for check in (
        checkups.torch,
        checkups.torchvision,
        checkups.models,
        checkups.lightning,
        checkups.deepspeed,
        checkups.video,
    ):
        [finding] = check(late)
        assert finding.state is State.CARE
        assert "did not import within 3 s" in finding.found
        assert "setup" not in finding.remedy
        assert "vgen doctor' again" in finding.remedy


def test_missing_weights_of_the_toybox_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checkups.toybox_model()[0].state is State.WORKS
    monkeypatch.setattr(checkups, "data_dir", lambda: tmp_path)
    assert checkups.toybox_model()[0].found == f"not in {tmp_path / 'toybox'}"
    for name in TOYBOX_FILES:
        (tmp_path / "toybox" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toybox" / name).touch()
    assert checkups.toybox_model()[0].state is State.WORKS
    (tmp_path / "toybox" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    [finding] = checkups.toybox_model()
    assert (finding.state, finding.found) == (
        State.ABSENT,
        f"{tmp_path / 'toybox'} lacks vae/diffusion_pytorch_model.safetensors",
    )
    assert finding.remedy


def test_every_remedy_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever does not work says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(probes, "probe", lambda names: dict.fromkeys(names, Reply({}, "broken")))
    findings = doctor.examine()
    assert all(finding.remedy for finding in findings if finding.state is not State.WORKS)
    assert Path(sys.prefix).name in findings[0].found


def test_what_is_still_looked_at_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(probes, "probe", lambda names: {name: Reply({}, None) for name in names})
    processes = [("torch", "deepspeed"), ("av",)]
    assert set(doctor._replies(processes, lambda left: told.append(list(left)))) == {
        "torch",
        "deepspeed",
        "av",
    }
    assert told[0] == ["torch", "deepspeed", "av"]
    assert [len(left) for left in told] in ([3, 1], [3, 2])


def test_without_a_terminal_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with doctor._looking(Console(stderr=True)) as said:
        said(["torch", "av"])
        said(["av"])
    err = capsys.readouterr().err
    assert "looking at torch, av: after an installation this can take a minute" in err
    assert err.count("looking at") == 1
