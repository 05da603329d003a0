"""Memory that does not suffice ends in one sentence that says what would fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vgen.data.batch import Batch
from vgen.data.clips import Window
from vgen.training.corpus import Corpus
from vgen.training.job import Job
from vgen.training.learner import Learner
from vgen.training.memory import is_out_of_memory, out_of_memory
from vgen.training.run import fit
from vgen.training.strategies import Precision, TrainerSettings


def test_a_run_that_finds_no_memory_says_what_would_fit(
    quick: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(self: Learner, batch: Batch, index: int) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr(Learner, "training_step", greedy)
    with pytest.raises(
        ValueError,
        match=r"memory does not suffice in step 1 with data\.batch_size=2 clips of 2 frames in fp32; set "
        r"data\.batch_size=1 trainer\.accumulate=2 .*trainer\.gradient_checkpointing=true",
    ):
        fit(quick(2))


def test_numpy_s_complaint_is_known_and_others_are_not() -> None:
    with pytest.raises(MemoryError) as ended:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(ended.value)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_nothing_is_advised_that_is_set_already() -> None:
    settings = TrainerSettings(gradient_checkpointing=True, precision=Precision.BF16)
    corpus = Corpus(batch_size=1, window=Window(num_frames=1))
    assert out_of_memory(settings, corpus, "in step 1").endswith("set a smaller image model, or more memory")
