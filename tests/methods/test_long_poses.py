"""A dance of three hundred frames, drawn in windows or pieces, needs little more memory than one of sixty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("long_poses.py")
PICTURE_MB = 3 * 4 * 96**2 / 2**20
"""One frame of what is drawn, in float32."""
MOST_PICTURES = 6.0
"""What a frame more may cost: its skeleton, its pixels, and either once more while frames are joined."""


def peak_mb(system: str, num_frames: int) -> float:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), system, str(num_frames)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "system", ["control_net", "follow_your_pose", "control_a_video", "dreampose", "disco"]
)
def test_a_frame_more_costs_a_few_pictures(system: str) -> None:
    grown = peak_mb(system, 300) - peak_mb(system, 60)
    assert grown < 240 * MOST_PICTURES * PICTURE_MB
