"""What `pip install .` gives: a vgen that finds its configurations and its model without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vgen.resources import conf_dir, data_dir

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_checkout_uses_its_own_folders() -> None:
    assert conf_dir() == ROOT / "conf"
    assert data_dir() == ROOT / "data"


def test_wheel_carries_the_whole_of_conf(unpacked: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}

    assert files(unpacked / "vgen" / "_conf") == files(ROOT / "conf")


def test_wheel_carries_the_shipped_model_and_nothing_else_of_data(unpacked: Path) -> None:
    carried = {path.name for path in (unpacked / "vgen" / "_data").iterdir()}
    assert carried == {name for name in ("README.md", "toybox") if (ROOT / "data" / name).exists()}


def test_installed_vgen_draws_with_its_own_model(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    wish = ["prompt=a red circle moves left", "sampling.num_frames=4", "sampling.num_steps=1", "out=drawn"]
    command = [sys.executable, "-P", "-m", "vgen", "generate", *wish]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "drawn").glob("*.mp4")] == ["000-a-red-circle-moves-left.mp4"]


def test_installed_vgen_runs_and_finds_its_folders(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    where = "from vgen import resources; print(resources.conf_dir(), resources.data_dir())"
    code = f"{where}; from vgen.app.cli import run; run('train', ['--help'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{unpacked}/vgen/_conf {unpacked}/vgen/_data\n")
