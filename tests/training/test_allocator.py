"""Memory that a CPU process frees is there for its next tensor."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from vgen.training.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1)
    raise SystemExit
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def make_and_free():
    for _ in range(16):
        torch.ones(16 * 2**20)  # 64 MB
make_and_free()  # the heap settles
before = faults()
make_and_free()
print(faults() - before)
"""


def faults(how: str) -> int:
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=120
    )
    return int(out.stdout)


def test_a_tensor_that_is_freed_and_made_again_costs_no_pages() -> None:
    kept = faults("keep")
    if kept < 0:
        pytest.skip("the C library has no mallopt")
    assert kept < faults("give back") / 10
