"""What strategies divide, what they send, and which cards hold it: by hand-made counts."""

from __future__ import annotations

import pytest

from vgen.training.footprint import (
    BUCKET,
    HELD_BACK,
    MOST_GATHERED,
    bytes_sent,
    footprint,
    is_held,
    most_clips,
)
from vgen.training.foretold import StepCounts
from vgen.training.scaling import Network, efficiency
from vgen.training.strategies import Precision, Spread, TrainerSettings

NUM = 400_000_000
WHOLE = StepCounts(
    frozen=2_000,
    frozen_sharded=1_600,
    learning=4 * NUM,
    gradients=4 * NUM,
    moments=8 * NUM,
    averages=4 * NUM,
    batch=0,
    peak=20 * NUM + 2_000 + 77,
    flops=10**12,
    num_learning=NUM,
    num_sharded=2 * NUM,
)
PARTS = StepCounts(
    frozen=2_000,
    frozen_sharded=1_600,
    learning=2 * NUM,
    gradients=0,
    moments=0,
    averages=0,
    batch=0,
    peak=2 * NUM + 2_000 + 77,
    flops=10**12,
    num_learning=NUM,
    num_sharded=2 * NUM,
)


def settings(strategy: Spread, devices: int = 4, **more: object) -> TrainerSettings:
    return TrainerSettings(strategy=strategy, devices=devices, precision=Precision.BF16, **more)


def test_one_device_holds_all_of_it_and_so_does_ddp() -> None:
    assert footprint(WHOLE, settings(Spread.SINGLE, 1), 1).peak == WHOLE.peak
    assert footprint(WHOLE, settings(Spread.DDP), 4).peak == WHOLE.peak


def test_zero1_keeps_gradients_whole() -> None:
    one, two = (footprint(PARTS, settings(spread), 4) for spread in (Spread.ZERO1, Spread.ZERO2))
    assert one.rows["gradients"] == 4 * two.rows["gradients, own part"]
    assert one.peak - two.peak == 3 * two.rows["gradients, own part"]
    share = 3 / 4
    assert bytes_sent(PARTS, settings(Spread.ZERO1, accumulate=4), 4) == pytest.approx(share * 2 * 2 * NUM)


def test_zero2_divides_gradients_moments_and_the_fp32_copy() -> None:
    rows = footprint(PARTS, settings(Spread.ZERO2), 4).rows
    assert rows["moments, own part"] == 8 * NUM // 4
    assert rows["gradients, own part"] == 2 * NUM // 4
    assert rows["their fp32 copy, own part"] == 4 * NUM // 4
    assert rows["learning weights"] == 2 * NUM
    assert rows["gradients on their way"] == 2 * 2 * BUCKET
    assert rows["activations"] == 77
    four, eight = (footprint(PARTS, settings(Spread.ZERO2), n).peak for n in (4, 8))
    assert four - eight == (2 + 4 + 8) * NUM // 8


def test_zero3_divides_weights_too_and_gathers_them() -> None:
    rows = footprint(PARTS, settings(Spread.ZERO3), 4).rows
    assert rows["weights, own part"] == (1_600 + 2 * NUM) // 4
    assert rows["weights, gathered"] == 2 * 2 * NUM
    assert rows["frozen weights elsewhere"] == 400
    assert rows["averages (EMA), own part"] == NUM


@pytest.mark.parametrize("num", [2, 8, 512])
def test_bytes_sent(num: int) -> None:
    share = (num - 1) / num
    assert bytes_sent(WHOLE, settings(Spread.DDP), num) == pytest.approx(share * 2 * 4 * NUM)
    assert bytes_sent(PARTS, settings(Spread.ZERO2), num) == pytest.approx(share * 2 * 2 * NUM)
    assert bytes_sent(PARTS, settings(Spread.ZERO3), num) == pytest.approx(share * 2 * 3 * NUM)
    assert bytes_sent(WHOLE, settings(Spread.DDP, accumulate=4), num) == pytest.approx(share * 8 * NUM)
    assert bytes_sent(PARTS, settings(Spread.ZERO2, accumulate=4), num) == pytest.approx(share * 10 * NUM)
    assert bytes_sent(WHOLE, settings(Spread.SINGLE, 1), 1) == 0
    assert PARTS.num_sharded < MOST_GATHERED, "else weights are gathered twice"


def test_the_largest_batch_lies_on_the_line() -> None:
    peaks = {1: 6 * 10**9, 2: 8 * 10**9, 4: 12 * 10**9}
    assert [most_clips(peaks, card) for card in (4, 12, 16, 24)] == [0, 3, 5, 9]
    assert is_held(24 * 10**9 - HELD_BACK, 24)
    assert not is_held(24 * 10**9 - HELD_BACK + 1, 24)


def test_one_gpu_keeps_all_of_its_speed_and_many_keep_less() -> None:
    network = Network()
    sent = 3 * 10**9
    shares = [efficiency(network, 1.0, sent, num) for num in (1, 2, 8, 64, 512)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    alike = Network(jitter=0, latency_us=0, overlap=0)
    assert efficiency(alike, 1.0, 25 * 10**9, 512) == pytest.approx(0.5)
    assert efficiency(Network(jitter=0), 10.0, sent, 512) == 1, "all of it is hidden behind backward"


@pytest.mark.parametrize("knob", ["network_gb_s", "tflops", "utilisation"])
def test_a_network_moves_bytes(knob: str) -> None:
    with pytest.raises(ValueError, match=rf"network\.{knob} must be positive, got 0"):
        Network(**{knob: 0})
    with pytest.raises(ValueError, match=r"network\.jitter must not be negative"):
        Network(jitter=-1)
