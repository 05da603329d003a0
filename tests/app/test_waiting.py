"""Threads that wait sleep, in every process, unless the user said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vgen.app.waiting import OWN, wait_asleep

SHOW = """
import os, sys
sys.stderr.write(f"{os.environ.get('OMP_WAIT_POLICY')} torch={'torch' in sys.modules}\\n")
"""


def test_a_users_own_setting_stays() -> None:
    for name in OWN:
        environment = {name: "active"}
        wait_asleep(environment)
        assert environment == {name: "active"}
    fresh: dict[str, str] = {}
    wait_asleep(fresh)
    assert fresh == {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(("given", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
@pytest.mark.parametrize(
    "way_in",
    [
        [str(Path(sys.executable).with_name("vgen")), "--version"],
        [sys.executable, "-m", "vgen", "--version"],
        [sys.executable, "-m", "vgen.app.cli"],
    ],
    ids=["console script", "python -m vgen", "python -m vgen.app.cli"],
)
def test_every_way_in_sets_it_before_torch_is_loaded(
    way_in: list[str], given: dict[str, str], found: str, tmp_path: Path
) -> None:
    """OpenMP reads its variables once, when torch loads it."""
    (tmp_path / "sitecustomize.py").write_text(f"import atexit\natexit.register(lambda: exec({SHOW!r}))\n")
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    path = os.pathsep.join([str(tmp_path), kept.get("PYTHONPATH", "")])
    done = subprocess.run(
        way_in, env=kept | given | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{found} torch=False"


def test_openmp_itself_waits_asleep() -> None:
    """What the runtime that torch brought says of itself."""
    ask = "import vgen.app.waiting, torch; torch.ones(1 << 20).exp_()"
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env=kept | {"OMP_DISPLAY_ENV": "true"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_tests_wait_asleep_too() -> None:
    assert any(name in os.environ for name in OWN)
