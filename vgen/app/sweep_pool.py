"""Several trials of a sweep at a time on one machine, each in a process and on a GPU of its own."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from vgen.app import probes
from vgen.app.refusals import in_letters

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """By the names that CUDA_VISIBLE_DEVICES takes."""
    if _VISIBLE in os.environ:
        return [name for name in os.environ[_VISIBLE].split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=probes.PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    return said.stdout.split() if said.returncode == 0 else []


def run(trials: Sequence[Sequence[str]], num_at_a_time: int, gpus: Sequence[str], logs: Path) -> None:
    """Run all, a line on the terminal as each ends; one that fails ends no other.

    Where there are GPUs each trial sees one of them, and several share one where more run at a time. Raises
    ValueError where all have failed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    places: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for i in range(num_at_a_time):
        places.put(gpus[i % len(gpus)] if gpus else None)

    def one(number: int) -> tuple[int, int, float]:
        gpu, begun = places.get(), time.monotonic()
        try:
            return number, _ended(trials[number], gpu, _log(logs, number)), time.monotonic() - begun
        finally:
            places.put(gpu)

    codes = []
    with ThreadPoolExecutor(max_workers=num_at_a_time) as pool:
        for done in as_completed([pool.submit(one, number) for number in range(len(trials))]):
            number, code, seconds = done.result()
            codes.append(code)
            how = f"done in {seconds:.0f} s" if code == 0 else f"failed ({code}): {_why(_log(logs, number))}"
            print(f"trial {number} of {len(trials)}: {how}", flush=True)
    if all(codes):
        raise ValueError(
            f"all {len(codes)} trials failed, as {_log(logs, 0)} says; their outputs are in {logs}"
        )


def _log(logs: Path, number: int) -> Path:
    return logs / f"{number}.log"


def _ended(words: Sequence[str], gpu: str | None, log: Path) -> int:
    """The exit code of a trial."""
    environment = os.environ | ({} if gpu is None else {_VISIBLE: gpu})
    with log.open("wb") as file:
        command = [sys.executable, "-m", "vgen", *words]
        return subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode


def _why(log: Path) -> str:
    """The last line that a trial has written."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")
    return in_letters(lines[-1])
