"""bf16 is used on a CPU that has it, and its price is said where it has not."""

from __future__ import annotations

import logging

import pytest
import torch

from vgen.backbones import cpu
from vgen.training import muon, strategies
from vgen.training.optimisation import Optimisation
from vgen.training.strategies import Accelerator, Precision, TrainerSettings, refuse_unfit, warn_of_slow_bf16

ON_CPU = {"accelerator": Accelerator.CPU}


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_muon_orthogonalises_in_what_the_cpu_multiplies_fast(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(cpu, "HAS_BF16", has_bf16)
    torch.manual_seed(0)
    found = muon.orthogonal(torch.randn(2, 12, 20), (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert found.dtype is dtype
    values = torch.linalg.svdvals(found.float())
    assert 0.5 < values.min() <= values.max() < 1.5


def test_a_gpu_always_multiplies_fast_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "HAS_BF16", False)
    assert cpu.matrix_dtype(torch.device("cuda")) is torch.bfloat16


@pytest.mark.parametrize("has_bf16", [True, False])
def test_training_says_what_bf16_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_bf16: bool
) -> None:
    monkeypatch.setattr(strategies, "HAS_BF16", has_bf16)
    for precision in (Precision.FP32, Precision.BF16):
        warn_of_slow_bf16(TrainerSettings(**ON_CPU, precision=precision))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == (not has_bf16)
    assert all("25 to 60 times as long" in line and "trainer.precision=fp32" in line for line in told)


@pytest.mark.parametrize(("has_bf16", "instead"), [(True, "bf16, or fp32, on a CPU"), (False, "use fp32 on")])
def test_bf16_is_recommended_only_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, instead: str
) -> None:
    monkeypatch.setattr(strategies, "HAS_BF16", has_bf16)
    with pytest.raises(ValueError, match=instead):
        refuse_unfit(TrainerSettings(**ON_CPU, precision=Precision.FP16), Optimisation(), False)
