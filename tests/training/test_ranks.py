"""Who a process is, before the processes are connected; and that held-out clips are shared without a rank
left waiting."""

from __future__ import annotations

import pytest
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment

from vgen.training import ranks
from vgen.training.loader import shares

PLACES = {
    "first process of a run that Lightning starts": ({}, 0),
    "second": ({"LOCAL_RANK": "1"}, 1),
    "second node, started by hand": ({"NODE_RANK": "1"}, 2),
    "torchrun": ({"TORCHELASTIC_RUN_ID": "a", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, 3),
    "srun": (
        {
            "SLURM_STEP_ID": "0",
            "SLURM_JOB_ID": "5",
            "SLURM_NTASKS": "4",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_PROCID": "3",
        },
        3,
    ),
    "batch script without srun": ({"SLURM_JOB_ID": "5", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 0),
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch):
    def set_(variables: dict[str, str]) -> None:
        slurm = ("SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID")
        for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", *slurm):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


@pytest.mark.parametrize(("variables", "rank"), PLACES.values(), ids=PLACES)
def test_rank(place, variables: dict[str, str], rank: int) -> None:
    place(variables)
    assert ranks.rank(devices=2) == rank


def test_a_launcher_that_disagrees_with_the_trainer_is_refused(place) -> None:
    place(PLACES["srun"][0])
    ranks.check(devices=2, num_nodes=2)
    with pytest.raises(
        ValueError, match=r"srun started 4 processes but trainer.devices=1 x trainer.num_nodes=1 is 1"
    ):
        ranks.check(devices=1, num_nodes=1)
    place(PLACES["batch script without srun"][0])
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=2 inside a Slurm job needs srun"):
        ranks.check(devices=1, num_nodes=2)


def test_slurm_never_requeues_from_a_signal_handler(place) -> None:
    place(PLACES["srun"][0])
    made = ranks.environment()
    assert isinstance(made, SLURMEnvironment)
    assert not made.auto_requeue
    place(PLACES["batch script without srun"][0])
    assert isinstance(ranks.environment(), LightningEnvironment)
    place({})
    assert ranks.environment() is None


def test_a_nameless_run_is_named_alike_on_every_rank(place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGEN_RUN_STAMP", "before")
    place({})
    named = ranks.stamp(devices=2)
    place({"LOCAL_RANK": "1"})
    assert ranks.stamp(devices=2) == named != "before"
    place(PLACES["srun"][0])
    assert ranks.stamp(devices=2) == "slurm5"


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "world_size"),
    [(20, 4, 1), (7, 4, 1), (5, 1, 2), (32, 4, 3), (3, 4, 3), (4, 2, 1)],
)
def test_held_out_clips_are_shared_evenly(num_clips: int, batch_size: int, world_size: int) -> None:
    batches = shares(num_clips, batch_size, world_size)
    assert [row for batch in batches for row in batch] == [(0, i) for i in range(num_clips)]
    assert len(batches) % world_size == 0
    assert all(0 < len(batch) < 2 * batch_size + 1 for batch in batches)
    assert len({len(batches[rank::world_size]) for rank in range(world_size)}) == 1


def test_too_few_held_out_clips_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"1 held-out clips cannot be shared by 2 processes; set data.val_clips to at least 2",
    ):
        shares(1, 4, 2)
