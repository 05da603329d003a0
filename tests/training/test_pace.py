"""How long ranks wait for data, and which one holds the others up."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vgen.data.cache import LatentCache
from vgen.data.files import lines_of
from vgen.training.job import Job
from vgen.training.pace import RankTimes
from vgen.training.run import fit


def test_the_slowest_rank_is_told_from_its_own_time() -> None:
    waiting, working = torch.tensor([1.0, 1.0, 4.0, 1.0]), torch.tensor([4.0, 4.0, 4.0, 9.0])
    found = RankTimes(waiting, working, torch.full((4,), 20.0)).figures()
    assert found["speed/data_wait"] == pytest.approx(7 / 80)
    assert (found["speed/data_wait_most"], found["speed/data_wait_rank"]) == (pytest.approx(0.2), 2)
    assert found["speed/slowest_rank"] == 3
    assert found["speed/slowest_over_median"] == pytest.approx(10 / 6.5)


def test_one_rank_is_compared_to_nobody() -> None:
    one = torch.ones(1)
    assert RankTimes(one, one, 4 * one).figures() == {"speed/data_wait": 0.25}


def test_a_run_says_how_long_it_waits_for_data(
    quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LatentCache.__getitem__

    def slow(self: LatentCache, *where: Any) -> Any:
        time.sleep(0.2)
        return read(self, *where)

    monkeypatch.setattr(LatentCache, "__getitem__", slow)
    folder = fit(quick(4, log_every_steps=2))
    [figures] = folder.glob("metrics*/*.csv")
    rows = list(csv.DictReader(lines_of(figures.read_text())))
    waits = {int(row["step"]): float(row["speed/data_wait"]) for row in rows if row.get("speed/data_wait")}
    assert list(waits) == [1, 3]
    assert 0.3 < waits[3] < 1
