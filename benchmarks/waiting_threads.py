"""Threads that wait for each other, spinning or asleep: a training step of the toybox's motion module, idle
and beside busy programs.

    python benchmarks/waiting_threads.py [rounds=2] [busy=0,1,3] [steps=4]

Each figure is of a process of its own: benchmarks/toybox_step.py, 2 clips of 8 frames, fp32, two threads. The
two policies come in turn, so that what else the machine does meets both. Prints one
JSON line a process, then medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STEP = Path(__file__).with_name("toybox_step.py")
POLICIES = ("active", "passive")
SPIN = "while True: pass"


@contextmanager
def beside(num_busy: int) -> Iterator[None]:
    """While it lasts, so many programs of one thread compute."""
    programs = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(num_busy)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def step(policy: str, steps: int) -> float:
    """Seconds a step; ``active`` is how OpenMP is without a word, spinning for a while and then asleep."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = kept | ({"OMP_WAIT_POLICY": "passive"} if policy == "passive" else {})
    asked = [
        "part=motion",
        "batch=2",
        "frames=8",
        "precision=fp32",
        "warm_up=1",
        "threads=2",
        f"steps={steps}",
    ]
    command = [sys.executable, str(STEP), *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["step_s"])


def main() -> None:
    options = {"rounds": "2", "busy": "0,1,3", "steps": "4"} | dict(a.split("=", 1) for a in sys.argv[1:])
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(int(options["rounds"])):
        for num_busy in map(int, options["busy"].split(",")):
            for policy in POLICIES:
                with beside(num_busy):
                    taken = step(policy, int(options["steps"]))
                found.setdefault((num_busy, policy), []).append(taken)
                told = {"busy": num_busy, "policy": policy, "step_s": round(taken, 3)}
                print(json.dumps(told | {"load": round(os.getloadavg()[0], 1)}), flush=True)
    for (num_busy, policy), taken in found.items():
        print(
            json.dumps({"busy": num_busy, "policy": policy, "median_s": round(statistics.median(taken), 3)})
        )


if __name__ == "__main__":
    main()
