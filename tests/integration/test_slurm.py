"""A real Slurm of two nodes on this host runs slurm/train.sbatch and slurm/evaluate.sbatch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vgen.formats.adapter import load_adapter

ROOT = Path(__file__).parents[2]
VGEN = Path(sys.executable).with_name("vgen")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = ("na", "nb")
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
MISSING = [name for name in NEEDED if shutil.which(name, path=SEARCH) is None]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"Slurm is not installed: no {', '.join(MISSING)} (Debian, Ubuntu: slurmctld slurmd "
        "slurm-client munge)",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="starting Slurm's daemons needs root"),
]

CONF = """
ClusterName=vgen
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket,cred_expire=5
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=5
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=na NodeHostname={host} NodeAddr=127.0.0.1 Port={na} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=nb NodeHostname={host} NodeAddr=127.0.0.1 Port={nb} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """munge, the controller and two nodes, all in one folder and in the foreground, so that what was started
    can be stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, []
        self.env = {**os.environ, "PATH": SEARCH, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        ports = free_ports(3)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        conf = CONF.format(
            host=socket.gethostname(), dir=self.folder, ctld=ports[0], na=ports[1], nb=ports[2]
        )
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        places = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munged.pid",
            "log-file": self.folder / "munged.log",
            "seed-file": self.folder / "munged.seed",
        }
        self._daemon(
            "munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items())
        )
        self._until("munged answers", places["socket"].exists)
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._until(
            "both nodes are idle", lambda: self.ask("sinfo", "-h", "-N", "-o", "%N %t") == "na idle\nnb idle"
        )

    def _daemon(self, name: str, *arguments: str) -> None:
        """In a process group of its own; the kernel ends it should this process die without cleaning up."""
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with (self.folder / f"{name}{arguments[-1] if name == 'slurmd' else ''}.log").open("wb") as log:
            command = [*leash, shutil.which(name, path=SEARCH), *arguments]
            daemon = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.env,
                start_new_session=True,
            )
            self.daemons.append(daemon)

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.ask("scontrol", "show", "job", job))
        return found[1] if found else "UNKNOWN"

    def finished(self, job: str, log: Path) -> str:
        """What a job that has to succeed said."""
        end = time.monotonic() + 240
        while (
            self.state(job) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "UNKNOWN")
            and time.monotonic() < end
        ):
            time.sleep(0.5)
        said = log.read_text() if log.exists() else "no output"
        assert self.state(job) == "COMPLETED", said + self.logs()
        return said

    def _until(self, what: str, is_so: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            dead = [d.args for d in self.daemons if d.poll() is not None]
            if dead or time.monotonic() > end:
                pytest.fail(f"Slurm did not start: waited until {what}; ended: {dead}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """Jobs first, since their steps outlive the daemons; what then still runs with this Slurm's
        configuration is ended by its pid."""
        scancel = shutil.which("scancel", path=SEARCH) or "scancel"
        subprocess.run(
            [scancel, "--signal=KILL", "--full", "--user=root"], env=self.env, capture_output=True, timeout=30
        )
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        mark = f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    mark in (process / "environ").read_bytes().split(b"\0")
                    and int(process.name) != os.getpid()
                ):
                    os.kill(int(process.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has ended by itself


def free_ports(num: int) -> list[int]:
    held = [socket.socket() for _ in range(num)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with tempfile.TemporaryDirectory(
        prefix="vgen-slurm-", dir="/tmp", ignore_cleanup_errors=True
    ) as name:  # sockets have short names
        Path(name).chmod(0o755)  # munge wants to be reachable
        cluster = Slurm(Path(name))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def submit(slurm: Slurm, environment, tmp_path: Path) -> Callable[..., str]:
    """Submits a script of the repository; gives the job's number."""
    settings = tmp_path / "cluster.env"
    settings.write_text("GLOO_SOCKET_IFNAME=lo\n")  # the names of these nodes do not resolve
    env = environment(SLURM_CONF=slurm.env["SLURM_CONF"], PATH=SEARCH, VGEN_CLUSTER_ENV=str(settings))

    def submit(script: str, *arguments: str, options: tuple[str, ...]) -> str:
        asked = ["sbatch", "--parsable", *options, str(ROOT / "slurm" / script), *arguments]
        done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


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
    for node in NODES:
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
