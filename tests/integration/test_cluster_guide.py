"""docs/guides/cluster.md, command by command, on a real Slurm of two nodes here; what asks for GPUs is
checked and printed by ``vgen submit``, and what builds the environment is looked at by ``make``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_lab import NEEDS_SLURM, ROOT, SEARCH, Slurm

GUIDE = ROOT / "docs" / "guides" / "cluster.md"
ALONE = "## Without Slurm"
pytestmark = [*NEEDS_SLURM, pytest.mark.cluster]


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What jobs are submitted from: the scripts and the environment, and what the guide takes for given."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm", ignore=shutil.ignore_patterns("cluster.env"))
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    for folder in ("data/mine", "models/sd15"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


class Reader:
    """Types the guide's commands in a checkout, as one who has Slurm."""

    def __init__(self, slurm: Slurm, checkout: Path, environment: dict[str, str]) -> None:
        self.slurm, self.checkout, self.environment = slurm, checkout, environment
        self.job, self.printed = "", ""

    def type(self, line: str) -> None:
        line = line.replace("JOB", self.job)
        if line.startswith("git clone"):
            line = f"make -n -C {ROOT} setup"
        elif "slurm.gpus" in line:
            line += " dry_run=true"
        elif line.startswith("scancel"):
            self.until("steps are left")
        self.printed = self._ran(line)
        if line.startswith("cp "):
            with (self.checkout / "slurm" / "cluster.env").open("a") as settings:
                settings.write("GLOO_SOCKET_IFNAME=lo\n")  # the names of these nodes do not resolve
        if found := re.search(r"job (\d+) is in the queue", self.printed):
            self.job = found[1]
        if line.startswith("scancel"):
            self.until("weights, optimiser, schedule")

    def _ran(self, line: str) -> str:
        done = subprocess.run(
            shlex.split(line),
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def output(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.checkout.glob(f"slurm-*-{self.job}*.out")))

    def until(self, words: str) -> None:
        self.slurm._until(f"{words} is said", lambda: words in self.output(), 240)

    def ended(self) -> str:
        """What the last job said, of which all tasks ended well."""
        end = time.monotonic() + 300
        while self.slurm.ask("squeue", "-h") and time.monotonic() < end:
            time.sleep(0.5)
        told = self.slurm.ask("scontrol", "show", "job", self.job)
        states = set(re.findall(r"JobState=(\w+)", told))
        assert states == {"COMPLETED"}, f"{told}\n{self.output()}\n{self.slurm.logs()}"
        return self.output()


@pytest.fixture
def reader(slurm: Slurm, checkout: Path, environment: Callable[..., dict[str, str]]) -> Reader:
    path = os.pathsep.join((str(checkout / ".venv" / "bin"), SEARCH))
    return Reader(slurm, checkout, environment(SLURM_CONF=slurm.env["SLURM_CONF"], PATH=path))


def test_every_command_does_what_the_guide_says(reader: Reader) -> None:
    """A job is waited for before the next one is submitted that does not name it."""
    waits, seen = False, []
    for line in commands(GUIDE.read_text().split(ALONE)[0]):
        submits = line.startswith("vgen submit") and line.split()[2] not in ("state", "cancel")
        if waits and ("JOB" not in line or "slurm.after" in line) and "slurm.gpus" not in line:
            seen.append(reader.ended())
            waits = False
        reader.type(line)
        if submits and "slurm.gpus" not in line:
            waits = "run.name=first" not in line
    said = "\n".join([*seen, reader.printed])
    for told in ("files", "clocks", "16 MiB of 2 ranks summed in", "1 rows, 32 clips, 0 rejected"):
        assert told in said, f"{told}\n{said}"
    run = reader.checkout / "runs" / "first"
    assert [*(run / "checkpoints").glob("step-*")], "cancelling saves"
    assert [*(reader.checkout / "data" / "cluster" / ".cache").rglob("part-00001")], "ranks cache"
    assert (reader.checkout / "outputs" / "first" / "summary.json").is_file()
    assert reader.printed.count("optim.lr=") == 3, reader.printed
