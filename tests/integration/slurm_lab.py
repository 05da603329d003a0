"""A real Slurm of two nodes and a spare one on this host: what starts it, asks it and breaks it."""

from __future__ import annotations

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
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VGEN = Path(sys.executable).with_name("vgen")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = ("na", "nb", "nc")
"""The last is the spare one: it is taken where another is lost."""
SEARCH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
MISSING = [name for name in NEEDED if shutil.which(name, path=SEARCH) is None]

NEEDS_SLURM = [
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
KillWait=20
SlurmdTimeout=15
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=na NodeHostname={host} NodeAddr=127.0.0.1 Port={na} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=nb NodeHostname={host} NodeAddr=127.0.0.1 Port={nb} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=nc NodeHostname={host} NodeAddr=127.0.0.1 Port={nc} CPUs=2 RealMemory=1000 State=UNKNOWN Weight=9
PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


class Slurm:
    """munge, the controller and two nodes, all in one folder and in the foreground, so that what was started
    can be stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, []
        self.nodes: dict[str, subprocess.Popen] = {}
        self.env = {**os.environ, "PATH": SEARCH, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        ports = free_ports(4)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        conf = CONF.format(
            host=socket.gethostname(), dir=self.folder, ctld=ports[0], na=ports[1], nb=ports[2], nc=ports[3]
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
            self.nodes[node] = self._daemon("slurmd", "-D", "-N", node)
        self.until_idle()

    def until_idle(self) -> None:
        idle = "\n".join(f"{node} idle" for node in NODES)
        self._until("all nodes are idle", lambda: self.ask("sinfo", "-h", "-N", "-o", "%N %t") == idle)

    def lose(self, node: str) -> None:
        """As by a power cut: the node's daemon, what watches over its tasks, and the tasks."""
        pids = self._tasks(node)
        watching = {parent_of(pid) for pid in pids}
        stepds = [pid for pid in watching if command_of(pid).startswith("slurmstepd")]
        self.kill_daemon(node)
        for pid in {*stepds, *pids}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_daemon(self, node: str) -> None:
        """The tasks of the node go on."""
        daemon = self.nodes.pop(node)
        self.daemons.remove(daemon)
        daemon.kill()
        daemon.wait()

    def restore(self) -> None:
        """Nodes that were lost come back, and all are idle."""
        for node in NODES:
            if node not in self.nodes:
                self.nodes[node] = self._daemon("slurmd", "-D", "-N", node)
        self.until_idle()

    def _tasks(self, node: str) -> list[int]:
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.folder / 'slurm.conf'}".encode()}
        return [pid for pid in processes() if marks <= environment_of(pid)]

    def _daemon(self, name: str, *arguments: str) -> subprocess.Popen:
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
        return daemon

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    def state(self, job: str) -> str:
        found = re.search(r"JobState=(\w+)", self.ask("scontrol", "show", "job", job))
        return found[1] if found else "UNKNOWN"

    def wait(self, job: str, seconds: float) -> str:
        """The state in which a job has ended, or in which it is when time is up."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) not in ENDED and time.monotonic() < end:
            time.sleep(0.5)
        return state

    def finished(self, job: str, log: Path) -> str:
        """What a job that has to succeed said."""
        self.wait(job, 240)
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
        for pid in processes():
            if pid != os.getpid() and mark in environment_of(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def environment_of(pid: int) -> set[bytes]:
    """Empty of a process that has ended."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def free_ports(num: int) -> list[int]:
    held = [socket.socket() for _ in range(num)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="session")
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
    """Submits a script of the repository with more in its environment; gives the job's number."""
    settings = tmp_path / "cluster.env"
    settings.write_text("GLOO_SOCKET_IFNAME=lo\n")  # the names of these nodes do not resolve

    def submit(script: str, *arguments: str, options: tuple[str, ...], **more: str) -> str:
        known = {"SLURM_CONF": slurm.env["SLURM_CONF"], "PATH": SEARCH, "VGEN_CLUSTER_ENV": str(settings)}
        env = environment(**known, **more)
        asked = ["sbatch", "--parsable", *options, str(ROOT / "slurm" / script), *arguments]
        done = subprocess.run(asked, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit
