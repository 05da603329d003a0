"""What `vgen doctor` looks at: each checkup examines one thing on this machine and returns findings with
their remedies."""

import importlib.metadata
import netrc
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from vgen.app import probes
from vgen.app.probes import Finding, Reply, State
from vgen.resources import data_dir

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
    driver, gpus = probes.driver(), reply.values["gpus"]
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
            timeout=probes.PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return [
            Finding(
                "Slurm",
                State.CARE,
                f"installed, but sinfo did not answer within {probes.PATIENCE_SECONDS} s",
                remedy,
            )
        ]
    if answer.returncode:
        return [Finding("Slurm", State.CARE, "installed, but no controller answers", remedy)]
    told = (
        f"{len(answer.stdout.splitlines())} partitions; before a long job: vgen submit doctor slurm.nodes=2"
    )
    return [Finding("Slurm", State.WORKS, told)]


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
