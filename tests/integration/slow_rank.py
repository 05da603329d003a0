"""``torchrun slow_rank.py key=value ...``: vgen train, of which rank 1 takes a third of a second longer for
every forward, and rank 0 waits a tenth for every clip."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from vgen.app.cli import run
from vgen.data.cache import LatentCache
from vgen.training.learner import Learner

RANK = int(os.environ["RANK"])
FORWARD_SECONDS, DATA_SECONDS = {0: 0.0, 1: 0.35}[RANK], {0: 0.1, 1: 0.0}[RANK]
step, read = Learner.training_step, LatentCache.__getitem__


def slow_step(self: Learner, batch: Any, index: int) -> Any:
    time.sleep(FORWARD_SECONDS)
    return step(self, batch, index)


def slow_read(self: LatentCache, *where: Any) -> Any:
    time.sleep(DATA_SECONDS)
    return read(self, *where)


Learner.training_step, LatentCache.__getitem__ = slow_step, slow_read  # type: ignore[method-assign]
raise SystemExit(run("train", sys.argv[1:]))
