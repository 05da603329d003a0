"""What `vgen doctor` looks at: each checkup examines one thing on this machine and returns findings with
their remedies."""

import importlib.metadata
import json
import netrc
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vgen.resources import data_dir

PATIENCE_SECONDS = 60
MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")
CPU_OR_CUDA = "VGEN_TORCH_INDEX=<index address from PyTorch's install page> make setup"
BUSY = "the machine may be busy or its disk slow: run 'vgen doctor' again when it is quiet"
TOYBOX_FILES = (
    "model_index.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "image_encoder/model.safetensors",
    "motion_module/adapter.safetensors",
    "control_edges/adapter.safetensors",
    "control_pose/adapter.safetensors",
)
GIB = 2**30

PROBES = {
    "torch": """
import torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
say(version=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip, gpus=[[g.name, g.total_memory] for g in gpus],
    bf16=torch.cuda.is_bf16_supported() if gpus else None, num_threads=torch.get_num_threads())
from vgen.backbones.cpu import HAS_BF16
say(cpu=torch.backends.cpu.get_cpu_capability(), cpu_bf16=HAS_BF16)
""",  # noqa: E501
    "deepspeed": "import deepspeed; say(version=deepspeed.__version__)",
    "lightning": "import pytorch_lightning; say()",
    "models": "import diffusers.models, transformers.modeling_utils; say()",
    "torchvision": "import torchvision; say(version=torchvision.__version__)",
    "av": """
import av
encoders = [name for name in ("libx264", "h264_nvenc", "libopenh264") if name in av.codecs_available and av.Codec(name, "w")]
say(version=av.__version__, ffmpeg=av.ffmpeg_version_info, encoders=encoders)
""",  # noqa: E501
}
# Which probes share a process: torch is slow to import, so few; a broken installation then costs its
# findings, not the doctor.
PROCESSES = (("torch", "deepspeed"), ("lightning", "models"), ("torchvision",), ("av",))
PROBING = """
import json, sys
for name, code in json.load(sys.stdin).items():
    answer = {}
    try:
        exec(code, {"say": answer.update})
        print("\\n@" + json.dumps([name, answer, None]), flush=True)
    except Exception as error:
        print("\\n@" + json.dumps([name, {}, f"{type(error).__name__}: {error}".splitlines()[0]]), flush=True)
"""


class State(Enum):
    """How serious a finding is; WORKS needs no remedy, and only BROKEN fails the checkup."""

    WORKS = "ok"
    CARE = "warn"
    ABSENT = "lack"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, how it is, what was found and, unless it works, what to do."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Reply:
    """What a probe said: its values, or the last line of its error; ``slow`` where it was still at work when
    patience ended."""

    values: dict
    error: str | None
    slow: bool = False


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver's version, or what is wrong with it; neither where there is none."""

    version: str | None = None
    trouble: str = ""


def probe(names: Sequence[str]) -> dict[str, Reply]:
    """Run probes one after the other in a process of their own."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.setdefault("DS_ACCELERATOR", "cuda" if _driver().version else "cpu")
    questions = json.dumps({name: PROBES[name] for name in names})
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBING],
            env=environment,
            input=questions,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        said, rest = (
            done.stdout,
            Reply({}, _last_line(done.stderr) or f"the import ended with status {done.returncode}"),
        )
    except subprocess.TimeoutExpired as late:
        said = (
            late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        )  # bytes, though text was asked for
        rest = Reply({}, f"did not import within {PATIENCE_SECONDS} s", slow=True)
    answers = [json.loads(line[1:]) for line in said.splitlines() if line.startswith("@[")]
    return {**dict.fromkeys(names, rest), **{name: Reply(values, error) for name, values, error in answers}}


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _unusable(
    subject: str, found: str, reply: Reply, remedy: str, state: State = State.BROKEN
) -> list[Finding]:
    """A library that failed to import; one that was merely slow may be sound."""
    return [
        Finding(subject, State.CARE, found, BUSY) if reply.slow else Finding(subject, state, found, remedy)
    ]


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def python() -> list[Finding]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return [Finding("Python", State.WORKS, f"{version}, {sys.prefix}")]
    return [
        Finding("Python", State.BROKEN, version, "use Python 3.10 to 3.13: VGEN_PYTHON=python3.12 make setup")
    ]


def torch(reply: Reply) -> list[Finding]:
    """The build, whether it fits the driver, and the GPUs."""
    if reply.error:
        return _unusable("torch", reply.error, reply, "make setup; if it stays, delete .venv/ first")
    version, cuda = reply.values["version"], reply.values["cuda"]
    build = f"CUDA {cuda}" if cuda else f"ROCm {reply.values['hip']}" if reply.values["hip"] else "CPU build"
    findings = [Finding("torch", State.WORKS, f"{version}, {build}, {reply.values['num_threads']} threads")]
    if tuple(map(int, version.split("+")[0].split(".")[:2])) < (2, 10):
        findings = [
            Finding(
                "torch",
                State.BROKEN,
                version,
                "older than 2.10, whose torch.load can run code from a file: make setup",
            )
        ]
    return [*findings, _gpu(reply, build), _cpu(reply)]


def _cpu(reply: Reply) -> Finding:
    """The instructions that torch uses, and whether bf16 is among them."""
    kind = reply.values["cpu"]
    if reply.values["cpu_bf16"]:
        return Finding("CPU", State.WORKS, f"{kind} with bf16")
    return Finding("CPU", State.WORKS, f"{kind} without bf16: on the CPU use fp32 (the default)")


def _gpu(reply: Reply, build: str) -> Finding:
    driver, gpus = _driver(), reply.values["gpus"]
    if gpus:
        names = ", ".join(f"{name} {memory / GIB:.0f} GiB" for name, memory in gpus)
        precision = "bf16" if reply.values["bf16"] else "no bf16: use trainer.precision=fp16"
        return Finding("GPU", State.WORKS, f"{names}; driver {driver.version or 'unknown'}; {precision}")
    if driver.trouble:
        remedy = (
            "for a GPU, restart the machine (a driver that was updated under it wants that) or ask its "
            "administrators; the CPU works"
        )
        return Finding("GPU", State.CARE, driver.trouble, remedy)
    if driver.version and build == "CPU build":
        return Finding("GPU", State.CARE, f"driver {driver.version}, but torch is a CPU build", CPU_OR_CUDA)
    if driver.version:
        remedy = f"update the driver, or take an older CUDA: {CPU_OR_CUDA}"
        return Finding("GPU", State.CARE, f"driver {driver.version} does not serve {build}", remedy)
    return Finding(
        "GPU",
        State.ABSENT,
        "no NVIDIA driver",
        "none needed for the toybox and the tests; real image models want one",
    )


def torchvision(reply: Reply) -> list[Finding]:
    """Not needed, but one built for another torch breaks every library that finds it."""
    if installed("torchvision") is None:
        return []
    if reply.error:
        found = reply.error if reply.slow else f"does not fit this torch: {reply.error}"
        return _unusable("torchvision", found, reply, "vgen does not need it: pip uninstall torchvision")
    return [Finding("torchvision", State.WORKS, reply.values["version"])]


def models(reply: Reply) -> list[Finding]:
    found = f"diffusers {installed('diffusers')}, transformers {installed('transformers')}"
    if reply.error:
        return _unusable("image models", f"{found}: {reply.error}", reply, "make setup")
    return [Finding("image models", State.WORKS, found)]


def known_malicious() -> list[Finding]:
    """Judged by metadata alone, because importing these would already run them."""
    bad = [
        f"{package} {installed(package)}"
        for package in ("lightning", "pytorch-lightning")
        if installed(package) in MALICIOUS_LIGHTNING
    ]
    remedy = (
        "stolen-credential releases: uninstall, then revoke every key and token this machine holds (W&B, "
        "hub, cloud, ssh)"
    )
    return [Finding("Lightning", State.BROKEN, ", ".join(bad), remedy)] if bad else []


def lightning(reply: Reply) -> list[Finding]:
    version = installed("pytorch-lightning")
    if reply.error:
        return _unusable("Lightning", f"{version or 'not installed'}: {reply.error}", reply, "make setup")
    return [Finding("Lightning", State.WORKS, f"pytorch-lightning {version}")]


def deepspeed(reply: Reply) -> list[Finding]:
    """The library, and the compiler that builds its kernels when they are first used."""
    if installed("deepspeed") is None:
        remedy = "only for trainer=deepspeed_*: delete .venv/ready.json, then make setup (Linux)"
        return [Finding("DeepSpeed", State.ABSENT, "not installed", remedy)]
    if reply.error:
        remedy = "only for trainer=deepspeed_*: make setup, or set CUDA_HOME when it asks for nvcc"
        return _unusable("DeepSpeed", reply.error, reply, remedy, State.CARE)
    compiler = next(
        (
            name
            for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++")
            if name and shutil.which(name)
        ),
        None,
    )
    found = f"{reply.values['version']}, kernels compile with {compiler or 'nothing'}"
    if compiler is None:
        return [Finding("DeepSpeed", State.CARE, found, "install g++ (Debian, Ubuntu: apt install g++)")]
    if not shutil.which("ninja") and not (Path(sys.prefix) / "bin" / "ninja").exists():
        return [Finding("DeepSpeed", State.CARE, f"{found}, no ninja", "pip install ninja")]
    return [Finding("DeepSpeed", State.WORKS, found)]


def video(reply: Reply) -> list[Finding]:
    if reply.error:
        return _unusable("video", f"PyAV: {reply.error}", reply, "make setup")
    found = f"PyAV {reply.values['version']}, FFmpeg {reply.values['ffmpeg']}"
    if not reply.values["encoders"]:
        return [
            Finding(
                "video",
                State.BROKEN,
                f"{found}, no H.264 encoder",
                "pip install --force-reinstall --only-binary=:all: av",
            )
        ]
    return [Finding("video", State.WORKS, f"{found}, {reply.values['encoders'][0]}")]


def wandb() -> list[Finding]:
    """Whether a key is there; never what it is."""
    version, mode = installed("wandb"), os.environ.get("WANDB_MODE")
    if version is None:
        return [Finding("W&B", State.BROKEN, "not installed", "make setup")]
    if mode in ("offline", "disabled", "dryrun"):
        return [Finding("W&B", State.WORKS, f"{version}, WANDB_MODE={mode}")]
    if os.environ.get("WANDB_API_KEY") or _netrc_names_wandb():
        return [Finding("W&B", State.WORKS, f"{version}, key present")]
    remedy = f"runs stay offline, 'wandb sync' sends them later; for online: {_beside_python('wandb')} login"
    return [Finding("W&B", State.ABSENT, f"{version}, no key", remedy)]


def _beside_python(command: str) -> str:
    """A command of this environment by its path, which works where the environment is not active."""
    path = Path(sys.executable).with_name(command)
    return str(path) if path.is_file() else command


def _netrc_names_wandb() -> bool:
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return any("wandb" in host for host in netrc.netrc(path).hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def slurm() -> list[Finding]:
    if not shutil.which("sbatch") or not shutil.which("sinfo"):
        remedy = (
            "only for slurm/*.sbatch: run this on a login node (tests: apt install slurmctld slurmd "
            "slurm-client munge)"
        )
        return [Finding("Slurm", State.ABSENT, "no sbatch, sinfo", remedy)]
    remedy = "check SLURM_CONF, or ask the cluster's administrators"
    try:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--format=%P %D"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return [
            Finding(
                "Slurm",
                State.CARE,
                f"installed, but sinfo did not answer within {PATIENCE_SECONDS} s",
                remedy,
            )
        ]
    if answer.returncode:
        return [Finding("Slurm", State.CARE, "installed, but no controller answers", remedy)]
    return [Finding("Slurm", State.WORKS, f"{len(answer.stdout.splitlines())} partitions")]


def disk(folder: Path) -> list[Finding]:
    free = shutil.disk_usage(folder).free / GIB
    if free < 10:
        remedy = "a run with checkpoints and clips wants 10 GiB: free some, or set out="
        return [Finding("disk", State.CARE, f"{free:.1f} GiB free at {folder}", remedy)]
    return [Finding("disk", State.WORKS, f"{free:.0f} GiB free at {folder}")]


def memory() -> list[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if total < 4:
        return [
            Finding(
                "memory",
                State.CARE,
                f"{total:.1f} GiB",
                "the demo takes up to 4 GiB; smaller batches: data.batch_size=",
            )
        ]
    return [Finding("memory", State.WORKS, f"{total:.0f} GiB")]


def toybox_model() -> list[Finding]:
    remedy = "part of every release: restore data/toybox from the repository, or install vgen again"
    try:
        folder = data_dir() / "toybox"
    except ValueError as error:
        return [Finding("toybox model", State.ABSENT, str(error), remedy)]
    missing = [name for name in TOYBOX_FILES if not (folder / name).is_file()]
    if missing:
        found = (
            f"not in {folder}"
            if len(missing) == len(TOYBOX_FILES)
            else f"{folder} lacks {', '.join(missing)}"
        )
        return [Finding("toybox model", State.ABSENT, found, remedy)]
    return [Finding("toybox model", State.WORKS, str(folder))]


def _driver() -> Driver:
    """What nvidia-smi says."""
    if not shutil.which("nvidia-smi"):
        return Driver("present" if Path("/proc/driver/nvidia/version").exists() else None)
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return Driver(trouble=f"nvidia-smi did not answer within {PATIENCE_SECONDS} s")
    if answer.returncode:
        words = " ".join((answer.stdout + answer.stderr).split())
        return Driver(trouble=f"nvidia-smi failed ({words or f'status {answer.returncode}'})")
    return Driver(next(iter(answer.stdout.split()), None))
