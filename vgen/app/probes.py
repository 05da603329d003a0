"""How `vgen doctor` finds out: libraries are imported in processes of their own, which may hang or crash, and
programs are asked with patience. What is found is a :class:`Finding`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

PATIENCE_SECONDS = 60

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
    environment.setdefault("DS_ACCELERATOR", "cuda" if driver().version else "cpu")
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


def driver() -> Driver:
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
