"""What DeepSpeed holds in parts is what one optimiser holds whole, and can be taken from and given to it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("parts_of_a_net.py")


@pytest.mark.slow
@pytest.mark.deepspeed
def test_two_stages_and_one_process_hold_the_same() -> None:
    if importlib.util.find_spec("deepspeed") is None:  # found, not imported: it would read its accelerator
        pytest.skip("deepspeed is not installed")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"DS_ACCELERATOR": "cpu", "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(2):
        env = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([sys.executable, str(SCRIPT)], env=env, **pipes))
    try:
        said = [process.communicate(timeout=900)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [text.strip().splitlines()[-1] for text in said] == ["alike", "alike"], "\n".join(said)
