"""Which of a run's processes this one is, known before Lightning or DeepSpeed have connected them.

Ranks are started by Lightning itself (the first process starts the others when fitting begins), by ``srun``
or by ``torchrun``.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment

_STAMP = "VGEN_RUN_STAMP"


def by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """A batch script has Slurm's variables too; only inside a step of several tasks has srun started
    ranks."""
    return "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def rank(devices: int) -> int:
    """Global rank of this process; ``devices`` are processes per node."""
    if by_torchrun():
        return int(os.environ["RANK"])
    if by_srun():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("NODE_RANK", 0)) * devices + int(os.environ.get("LOCAL_RANK", 0))


def local_rank() -> int:
    """Number of this process on its machine."""
    if by_srun() and not by_torchrun():
        return int(os.environ["SLURM_LOCALID"])
    return int(os.environ.get("LOCAL_RANK", 0))


def is_started_by_lightning() -> bool:
    """Whether rank 0 of this machine has started this process, and watches over it."""
    return not (by_torchrun() or by_srun()) and int(os.environ.get("LOCAL_RANK", 0)) > 0


def check(devices: int, num_nodes: int) -> None:
    """Raises ValueError where the launcher started another number of processes than the trainer is set to."""
    wanted = devices * num_nodes
    for launcher, here, variable in (
        ("torchrun", by_torchrun(), "WORLD_SIZE"),
        ("srun", by_srun(), "SLURM_NTASKS"),
    ):
        if here and int(os.environ[variable]) != wanted:
            raise ValueError(
                f"{launcher} started {os.environ[variable]} processes but trainer.devices={devices} x "
                f"trainer.num_nodes={num_nodes} "
                f"is {wanted}; make them equal (one process per device; trainer=ddp or "
                "trainer=deepspeed_zero2)"
            )
    if num_nodes > 1 and "SLURM_JOB_ID" in os.environ and not by_srun():
        raise ValueError(
            f"trainer.num_nodes={num_nodes} inside a Slurm job needs srun, which starts one process per "
            "device; "
            "slurm/train.sbatch does it"
        )


def environment() -> ClusterEnvironment | None:
    """What tells Lightning the ranks; None where it finds out by itself. Slurm's own requeue handler saves
    inside a signal handler (Lightning issue 21406): it is off, the batch script requeues."""
    from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment

    if by_torchrun() or "SLURM_NTASKS" not in os.environ:
        return None
    return SLURMEnvironment(auto_requeue=False) if by_srun() else LightningEnvironment()


def stamp(devices: int) -> str:
    """Names a run that was given no name; the same on every rank, and in Slurm across requeues."""
    if "SLURM_JOB_ID" in os.environ:
        return f"slurm{os.environ['SLURM_JOB_ID']}"
    if by_torchrun():
        return os.environ["TORCHELASTIC_RUN_ID"]
    if rank(devices) == 0:  # Lightning's other ranks start later and inherit the environment
        os.environ[_STAMP] = time.strftime("%Y%m%d-%H%M%S")
    return os.environ.get(_STAMP) or time.strftime("%Y%m%d-%H%M%S")
