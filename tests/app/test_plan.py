"""``vgen plan``: what is printed, and what is refused."""

from __future__ import annotations

import sys

import pytest
from hydra.core.config_store import ConfigStore

from vgen.app import cli

TOY = ["backbone=blank", "backbone.blank=toybox", "method.motion.heads=4", "data.window.num_frames=2"]


@pytest.fixture
def plan(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the verb in this process; gives the exit code, what it printed and what it complained of."""
    offered = {
        group: node for group, node in ConfigStore.instance().repo.items() if group not in ("data", "method")
    }
    monkeypatch.setattr(ConfigStore.instance(), "repo", offered)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vgen"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.modules["__main__"].__spec__)

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.run("plan", list(words))
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_the_plan_of_a_gpu_has_cards_bytes_and_a_simulation(plan) -> None:
    code, said, complaint = plan(*TOY, "trainer=ddp", "gpus=4", "trainer.precision=bf16", "size_px=64")
    assert (code, complaint) == (0, "")
    assert "plan: animatediff on shapes of toybox" in said
    assert "4 x ddp, bf16, no gradient checkpointing, accumulate 1" in said
    rows = {line[:30].strip(): line[30:].split() for line in said.splitlines()}
    assert rows["which GPU do I need (GB)"] == ["12", "16", "24", "40", "48", "80", "141"]
    assert rows["as it is set"] == ["yes"] * 7
    with_it, without = (
        [int(cell) for cell in rows[f"most clips, {name}"]] for name in ("checkpointing", "without")
    )
    assert all(a >= b > 0 for a, b in zip(with_it, without, strict=True))
    assert rows["GPUs"] == ["4", "8", "64", "512"]
    assert len(rows["each sends, GB a step"]) == len(rows["efficiency, simulated"]) == 4
    assert "its time is not promised: probe=true" in said
    held = [float(rows[name][0]) for name in rows if name in HELD]
    assert float(rows["at the peak"][0]) == pytest.approx(sum(held), abs=0.05)
    assert max(map(len, said.splitlines())) <= 80


HELD = (
    "frozen weights",
    "learning weights",
    "gradients",
    "moments",
    "averages (EMA)",
    "activations",
)


def test_a_cpu_has_no_cards_and_a_probe_says_what_a_step_takes(plan) -> None:
    code, said, _ = plan(*TOY, "trainer=cpu", "probe=true", "data.batch_size=1")
    assert code == 0
    assert "which GPU" not in said
    assert "each process holds" in said
    assert "2 frames of 64 x 64 px for each CPU process" in said
    assert "s here, by a probe of one process" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*TOY, "gpus=-1"], "gpus must not be negative, got -1; leave it out"),
        ([*TOY, "gpus=2"], "trainer.strategy=single runs one process, got devices=2"),
        (["method=prompt_to_prompt"], "trains nothing; there is nothing to plan"),
        ([*TOY, "trainer=deepspeed_zero2", "optim.kind=muon"], "optim.kind=muon needs whole weights"),
        ([*TOY, "network.tflops=0"], "network.tflops must be positive, got 0"),
    ],
)
def test_one_sentence(plan, words: list[str], sentence: str) -> None:
    code, _, complaint = plan(*words)
    assert code == 2
    assert sentence in complaint
    assert complaint.count("\n") == 1


@pytest.mark.slow
def test_an_experiment_names_its_shapes_and_its_size(plan) -> None:
    words = ("trainer=deepspeed_zero2", "trainer.precision=bf16", "gpus=8")
    code, said, _ = plan("experiment=sd15_motion_512", *words)
    assert code == 0
    assert "animatediff on shapes of sd15" in said
    assert "2 x 16 frames of 512 x 512 px for each GPU" in said
    assert "8 x deepspeed_zero2, bf16, gradient checkpointing, accumulate 16" in said
    assert max(map(len, said.splitlines())) <= 80
