"""A real Slurm of two nodes on this host runs slurm/train.sbatch and slurm/evaluate.sbatch."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from slurm_lab import NEEDS_SLURM, ROOT, SEARCH, VGEN, Slurm

from vgen.formats.adapter import load_adapter

pytestmark = NEEDS_SLURM


def test_a_job_of_two_nodes_trains_and_writes_its_adapter(
    slurm: Slurm, submit: Callable[..., str], overrides: list[str], toy_shards: Path, tmp_path: Path
) -> None:
    arguments = [
        *overrides,
        f"data.path={toy_shards}",
        "data.batch_size=1",
        "trainer.max_steps=2",
        f"run.dir={tmp_path}",
    ]
    log = tmp_path / "job.log"
    job = submit("train.sbatch", *arguments, options=(f"--output={log}",))
    said = slurm.finished(job, log)
    assert "train.sbatch: 2 nodes (na,nb) x 1 processes, rank 0 at 127.0.0.1:" in said
    for node in ("na", "nb"):
        assert f"launch task StepId={job}.0" in (slurm.folder / f"slurmd{node}.log").read_text(), (
            f"node {node} took no part"
        )
    run = (
        tmp_path / f"animatediff-slurm{job}"
    )  # a run without a name keeps its folder when the job is requeued
    _, card = load_adapter(run / "adapter.safetensors")
    assert (card.summary["steps"], card.summary["clips"]) == (2, 4), "two processes of one clip, two steps"
    assert said.count(f"run: {run}") == 1


def test_a_job_near_its_time_limit_saves_and_goes_on_where_it_was(
    slurm: Slurm, submit: Callable[..., str], overrides: list[str], toy_shards: Path, tmp_path: Path
) -> None:
    arguments = [
        *overrides,
        f"data.path={toy_shards}",
        "data.batch_size=1",
        "data.window.num_frames=1",
        "trainer.preflight=false",
        "trainer.max_steps=30",
        "trainer.val_every_steps=100",
        "trainer.checkpoint_every_steps=100",
        f"run.dir={tmp_path}",
        "run.name=run",
    ]
    log = tmp_path / "job.log"
    job = submit("train.sbatch", *arguments, options=(f"--output={log}",))
    slurm._until("steps are taken", lambda: log.exists() and "train: step" in log.read_text(), 240)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    said = slurm.finished(job, log)
    for told in ("telling all ranks to save", "requeueing (restart 1)"):
        assert f"train.sbatch: {told}" in said
    stopped = re.search(r"stopped at step (\d+) by SIGUSR1", said)
    assert stopped is not None
    assert f"at step {stopped[1]}: weights, optimiser, schedule" in said, "it goes on from that step"
    assert load_adapter(tmp_path / "run" / "adapter.safetensors")[1].summary["steps"] == 30


def test_an_array_draws_shares_of_a_suite_and_a_last_job_scores(
    slurm: Slurm, submit: Callable[..., str], tmp_path: Path
) -> None:
    out, log = tmp_path / "evaluation", tmp_path / "share-%a.log"
    asked = [
        "adapter=untrained",
        "suite=smoke",
        "sampling.num_steps=1",
        "batch_size=1",
        "selftest=2",
        f"out={out}",
    ]
    drawing = submit("evaluate.sbatch", *asked, options=("--array=0-1", f"--output={log}"))
    log = tmp_path / "score.log"
    scoring = submit(
        "evaluate.sbatch",
        *asked,
        "stage=score",
        options=(f"--dependency=afterok:{drawing}", f"--output={log}"),
    )
    slurm.finished(scoring, log)
    shares = sorted((out / "samples" / "untrained").glob("seconds-*.jsonl"))
    assert [bool(share.read_text().strip()) for share in shares] == [True, True], (
        "each task of the array draws some of the clips"
    )
    summary = json.loads((out / "summary.json").read_text())
    assert [*summary["checkpoints"]] == ["untrained"]


def test_a_sweep_of_trainings_is_an_array_with_a_trial_per_task(
    slurm: Slurm,
    environment: Callable[..., dict[str, str]],
    overrides: list[str],
    toy_shards: Path,
    tmp_path: Path,
) -> None:
    """By ``vgen submit``; of two trials one fails, and the other is trained."""
    sweep = tmp_path / "two.yaml"
    sweep.write_text(
        "program: vgen\nmethod: grid\nparameters:\n  trainer.max_steps:\n    values: [1, -1]\n"
        f"command: ['${{env}}', vgen, train, '${{args_no_hyphens}}', run.dir={tmp_path / 'runs'}]\n"
    )
    settings = tmp_path / "cluster.env"
    settings.write_text(f"VGEN={VGEN}\n")
    env = environment(SLURM_CONF=slurm.env["SLURM_CONF"], PATH=SEARCH, VGEN_CLUSTER_ENV=str(settings))
    more = [*overrides, f"data.path={toy_shards}", "data.batch_size=1"]
    asked = [str(VGEN), "submit", "sweep", str(sweep), "slurm.name=two", *more]
    done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    job = re.search(r"job (\d+) is in the queue", done.stdout)[1]
    logs = [ROOT / f"slurm-two-{job}_{task}.out" for task in range(2)]
    try:
        slurm._until("both trials have ended", lambda: not slurm.ask("squeue", "-h"), 240)
        said = [log.read_text() for log in logs]
    finally:
        for log in logs:
            log.unlink(missing_ok=True)
    assert len([*(tmp_path / "runs").glob("*/adapter.safetensors")]) == 1, said
    assert "trainer.max_steps" in said[1]
    table = subprocess.run(
        [str(VGEN), "sweep", f"aggregate={tmp_path / 'runs'}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert table.stdout.count("(failed)") == 1, table.stdout + table.stderr
