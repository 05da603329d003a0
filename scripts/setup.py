"""Builds .venv/ from whatever state it is in; quick when there is nothing to do. Standard library only, any
python3 can start it.

Variables: VGEN_PYTHON (the Python to build on), VGEN_TORCH_INDEX (address of a package index to take torch
from: a CPU, CUDA or ROCm build).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "ready.json"
LOG = VENV / "setup.log"
SUPPORTED = [(3, 10), (3, 11), (3, 12), (3, 13)]
TOOLS = ["pip>=23.2", "setuptools", "wheel", "ninja", "py-cpuinfo", "packaging", "hatchling", "editables"]
CUDA_PACKAGE = re.compile(r"^(nvidia|cuda)[-_]", re.IGNORECASE)
HEARTBEAT_SECONDS = 10

# Run by the environment's own Python: forget packages that an interrupted installation left without all of
# their files.
MEND = """
import importlib.metadata as metadata, json, pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_paths()["purelib"])
for leftover in site.glob("~*"):
    shutil.rmtree(leftover, ignore_errors=True)
forgotten = []
for info in site.glob("*.dist-info"):
    files = metadata.Distribution.at(info).files
    whole = files and all(f.locate().is_file() and f.size in (None, f.locate().stat().st_size) for f in files if f.suffix != ".pyc")
    if not whole:
        shutil.rmtree(info)
        forgotten.append(info.name)
print(json.dumps(forgotten))
"""  # noqa: E501

# Run by the environment's own Python: what vgen[dev] asks for on this platform, one requirement per line.
REQUIREMENTS = """
import importlib.metadata as metadata
from packaging.requirements import Requirement
for line in metadata.requires("vgen"):
    wanted = Requirement(line)
    if wanted.marker is None or wanted.marker.evaluate({"extra": "dev"}):
        wanted.marker = None
        print(wanted)
"""


class SetupError(Exception):
    """One sentence for the user: what stands in the way and what to do."""


class Steps:
    """Runs commands one after the other; says which, for how long, and keeps their output in setup.log."""

    def __init__(self, total: int) -> None:
        self.total, self.number, self.start = total, 0, time.monotonic()

    def run(self, title: str, command: list[str], fatal: bool = True) -> bool:
        self.number += 1
        begin, beat = time.monotonic(), HEARTBEAT_SECONDS
        say(f"[{self.number}/{self.total}] {title}")
        with LOG.open("ab") as log:
            mark = log.tell()
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=environment(),
            )
            while child.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - begin > beat:
                    beat += HEARTBEAT_SECONDS
                    say(f"      {time.monotonic() - begin:4.0f} s  {last_line(mark)}")
        if child.returncode and fatal:
            raise SetupError(f"'{title}' failed; the end of {LOG} says why:\n{tail(mark)}")
        say(f"      {'failed' if child.returncode else 'done'} in {time.monotonic() - begin:.0f} s")
        return child.returncode == 0


def say(line: str) -> None:
    print(line, flush=True)


def tail(mark: int, num_lines: int = 20) -> str:
    with LOG.open("rb") as log:
        log.seek(mark)
        return "\n".join(
            "    " + line for line in log.read().decode(errors="replace").splitlines()[-num_lines:]
        )


def last_line(mark: int) -> str:
    """What pip is doing; its warnings about places it could not look in are for the log."""
    lines = [line.strip() for line in tail(mark).splitlines() if "WARNING" not in line]
    return lines[-1][:100] if lines else ""


def environment() -> dict[str, str]:
    """No questions, no version notices; DeepSpeed compiles its kernels when they are first used, not now."""
    quiet = {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "DS_BUILD_OPS": "0",
    }
    misleading = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
    return {**{key: value for key, value in os.environ.items() if key not in misleading}, **quiet}


def fingerprint() -> str:
    """Changes when what should be installed changes; the settings of tools in pyproject.toml do not count."""
    project = (ROOT / "pyproject.toml").read_text().split("\n[tool.")[0]
    parts = [project, (ROOT / "constraints.txt").read_text(), str(ROOT)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def installed_names() -> set[str]:
    return {info.name.split("-")[0].lower() for info in VENV.glob("lib/python3.*/site-packages/*.dist-info")}


def torch_index() -> str:
    """Which index the user names for torch, as a digest, because an address may hold a password."""
    return hashlib.sha256(os.environ.get("VGEN_TORCH_INDEX", "").encode()).hexdigest()


def is_asked_to_change(stamp: dict) -> bool:
    """Whether a variable names another Python, or another source of torch, than what was set up."""
    python, index = os.environ.get("VGEN_PYTHON"), os.environ.get("VGEN_TORCH_INDEX")
    other_python = bool(python) and python_version(python) != python_version(str(BIN / "python"))
    return other_python or (bool(index) and stamp.get("torch_index") != torch_index())


def is_ready() -> bool:
    stamp = read_stamp()
    here = (BIN / "python").exists() and (BIN / "vgen").exists() and not is_asked_to_change(stamp)
    return here and stamp.get("fingerprint") == fingerprint() and set(stamp["packages"]) <= installed_names()


def answers(command: list[str]) -> str | None:
    """What a command prints, or None when it fails or is not there."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(), cwd=ROOT
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def python_version(python: str) -> tuple[int, ...] | None:
    said = answers([python, "-c", "import sys; print(*sys.version_info[:2])"])
    return tuple(map(int, said.split())) if said else None


def find_python() -> str:
    """The Python that runs this, when it will do, else the first supported one on the PATH; VGEN_PYTHON
    overrides both."""
    named = os.environ.get("VGEN_PYTHON")
    candidates = (
        [named] if named else [sys.executable, "python3.12", "python3.11", "python3.13", "python3.10"]
    )
    for python in candidates:
        if python_version(python) in SUPPORTED:
            return python
    found = named or f"python3 ({'.'.join(map(str, sys.version_info[:2]))})"
    raise SetupError(
        f"vgen needs Python 3.10, 3.11, 3.12 or 3.13 and {found} is not one; install one and run "
        "VGEN_PYTHON=python3.12 make setup"
    )


def prepare_venv(steps: Steps) -> None:
    """A working .venv/: the one that is there if its Python and pip answer and it was not moved here, else a
    new one."""
    moved = read_stamp().get("root", str(ROOT)) != str(ROOT)
    python = str(BIN / "python")
    named = os.environ.get("VGEN_PYTHON")
    fits = python_version(python) in SUPPORTED and (
        not named or python_version(python) == python_version(named)
    )
    if fits and not moved and answers([python, "-m", "pip", "--version"]):
        STAMP.unlink(missing_ok=True)
        forgotten = json.loads(answers([python, "-c", MEND]) or "[]")
        if forgotten:
            say(f"      incomplete, will be installed again: {', '.join(sorted(forgotten))}")
        return
    python = find_python()
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    if VENV.exists():
        say("      removing the one that is there: moved, broken, or made for another Python")
        shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    try:
        steps.run(f"a new .venv/ on {python}", [python, "-m", "venv", str(VENV)])
    except SetupError as error:
        remedy = (
            f"{python} cannot create virtual environments; install its venv and pip modules (Debian, "
            "Ubuntu: apt install python3-venv)"
        )
        raise SetupError(f"{error}\n{remedy}") from None


def pip(*arguments: str) -> list[str]:
    return [
        str(BIN / "python"),
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        "-c",
        str(ROOT / "constraints.txt"),
        *arguments,
    ]


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"constraints.txt has no line '{package}==...'; restore it from the repository")
    return f"{package}=={found[1]}"


def has_nvidia_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def would_pull_cuda(requirement: str) -> bool:
    """Whether pip, as it is configured here, would answer the requirement with a build that needs CUDA
    packages."""
    dry = answers(
        [
            str(BIN / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--no-deps",
            "--report",
            "-",
            requirement,
        ]
    )
    chosen = json.loads(dry[dry.index("{") :])["install"] if dry and "{" in dry else []
    return any(
        CUDA_PACKAGE.match(wanted) for item in chosen for wanted in item["metadata"].get("requires_dist", [])
    )


def torch_arguments() -> list[str]:
    """How to ask pip for torch: never CUDA on a CPU machine that can have the CPU build, never a CPU build on
    a GPU machine."""
    torch = pinned("torch")
    if os.environ.get("VGEN_TORCH_INDEX"):
        return [torch, "--no-deps", "--force-reinstall", "--index-url", os.environ["VGEN_TORCH_INDEX"]]
    version = answers(
        [str(BIN / "python"), "-c", "import importlib.metadata as m; print(m.version('torch'))"]
    )
    if version and version.split("+")[0] == torch.split("==")[1]:
        return [torch]
    if has_nvidia_gpu() or not would_pull_cuda(torch):
        return [torch]
    if (
        answers(
            [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", f"{torch}+cpu"]
        )
        is not None
    ):
        return [f"{torch}+cpu"]
    say(
        "      no NVIDIA GPU here, and pip's indexes offer torch only with CUDA (several GB), which works "
        "too; for the small CPU build\n"
        "      stop now and run VGEN_TORCH_INDEX=<the index address that PyTorch's install page shows for "
        "CPU> make setup"
    )
    return [torch]


def install(steps: Steps) -> list[str]:
    """Everything, torch first so that nothing else decides which build of it comes; returns what could not be
    had."""
    prepare_venv(steps)
    steps.run("build tools", pip(*TOOLS))
    steps.run(f"{pinned('torch')} (the longest step)", pip(*torch_arguments()))
    steps.run("vgen itself, editable", pip("--no-build-isolation", "--no-deps", "-e", str(ROOT)))
    wanted = (answers([str(BIN / "python"), "-c", REQUIREMENTS]) or "").splitlines()
    deepspeed = [line for line in wanted if line.startswith("deepspeed")]
    steps.run("libraries and test tools", pip(*(line for line in wanted if line not in deepspeed)))
    # Its build looks at the installed torch; in an isolated build environment it could fetch another one,
    # with CUDA.
    have = not deepspeed or steps.run("DeepSpeed", pip("--no-build-isolation", *deepspeed), fatal=False)
    return [] if have else ["DeepSpeed"]


def setup() -> None:
    if is_ready():
        return
    steps = Steps(total=6 if not (BIN / "python").exists() else 5)
    say(f"setting up {VENV}")
    lacks = install(steps)
    if lacks:
        say(
            f"      without {', '.join(lacks)}, all but trainer=deepspeed_* works; {LOG} says why; to try "
            f"again: rm {STAMP}; make setup"
        )
    packages = sorted(installed_names() - {"pip"})
    fresh = STAMP.with_suffix(".tmp")
    fresh.write_text(
        json.dumps(
            {
                "fingerprint": fingerprint(),
                "root": str(ROOT),
                "torch_index": torch_index(),
                "packages": packages,
            }
        )
    )
    fresh.replace(STAMP)
    say(f"set-up complete in {time.monotonic() - steps.start:.0f} s")


def main() -> int:
    try:
        import fcntl

        with Path(
            __file__
        ).open() as lock:  # two makes at once: the second waits, then finds everything ready
            fcntl.flock(lock, fcntl.LOCK_EX)
            setup()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; the next 'make setup' goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
