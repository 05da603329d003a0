"""A checkpoint: a folder of safetensors and JSON, whole or absent, and read only after its hashes.

It holds what learns, unsharded, under the names of ``VideoModel.components()``, and nothing of the strategy
that trained it. Nothing in it is executed, and nothing beside the named files is read.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vgen.data.files import write_whole
from vgen.data.leftovers import temporary as temporary_of
from vgen.formats.tensor_file import Shelf, Written, hashed, num_bytes
from vgen.formats.tensor_file import write as write_tensors

FORMAT = "vgen-checkpoint-1"
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "LATEST"
WEIGHTS, AVERAGES, MOMENTS = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
FILES = (WEIGHTS, AVERAGES, MOMENTS, STATE)
_STEP = re.compile(r"step-(\d+)")
_ROOM_BYTES = 2**20
"""What the small files take beside the tensors, generously."""


class Unsound(ValueError):
    """A checkpoint that is not taken; says which and why."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What is no tensor. ``samples`` were consumed up to ``step``; ``record`` says of what run it is.

    ``optimizer`` names the kind and ``optimizer_steps`` what each parameter has made; ``scaler`` is of fp16;
    ``val_loss`` is that of ``best``.
    """

    step: int
    samples: int
    record: dict[str, Any]
    optimizer: str
    optimizer_steps: dict[str, int]
    scheduler: dict[str, Any]
    ema_updates: int | None = None
    scaler: dict[str, Any] | None = None
    val_loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files are what its manifest says."""

    folder: Path
    state: State
    num_bytes: int
    names: dict[str, list[str]] = field(repr=False)
    """The tensors of each safetensors file."""

    @contextmanager
    def reading(self, file: str) -> Iterator[Any]:
        """The safetensors file, opened; tensors are read one by one by ``get_tensor``."""
        with safe_open(self.folder / file, "pt") as opened:
            yield opened

    def tensors(self, file: str) -> dict[str, Tensor]:
        with self.reading(file) as opened:
            return {name: opened.get_tensor(name) for name in self.names[file]}


def write(folder: Path, shelves: Mapping[str, Shelf], state: State) -> None:
    """Write beside, flush to the disk, rename. Where anything is in the way nothing is left of it.

    Raises FileNotFoundError where the folder's own folder is gone, OSError where the disk refuses.
    """
    needed = sum(num_bytes(shelf) for shelf in shelves.values()) + _ROOM_BYTES
    if shutil.disk_usage(folder.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    temporary = temporary_of(folder.with_name(f".{folder.name}"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _fill(temporary, shelves, state)
        _replace(folder, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(folder: Path, shelves: Mapping[str, Shelf], state: State) -> None:
    files = {name: write_tensors(folder / name, shelf) for name, shelf in shelves.items()}
    for name in shelves:
        _flush(folder / name)
    write_whole(folder / STATE, json.dumps(asdict(state)).encode())
    files[STATE] = hashed(folder / STATE)
    manifest = {"format": FORMAT, "files": {name: asdict(written) for name, written in files.items()}}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _replace(folder: Path, temporary: Path) -> None:
    former = folder.with_name(f".{folder.name}.former.tmp")
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        os.replace(folder, former)
    os.replace(temporary, folder)
    _flush(folder.parent)
    shutil.rmtree(former, ignore_errors=True)


def _flush(path: Path) -> None:
    """The values in a file, or the names in a folder, survive a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def point_to(folder: Path) -> None:
    """Name the newest checkpoint in ``LATEST``, for people and scripts; vgen itself takes the newest sound
    one."""
    write_whole(folder.parent / LATEST, f"{folder.name}\n".encode())


# -- reading ---------------------------------------------------------------------------------------------
def opened(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``. Raises Unsound where it is not what was written."""
    files = _manifest(folder)
    for name, written in files.items():
        _compare(folder / name, written)
    total = sum(written.num_bytes for written in files.values())
    names = {name: _names(folder / name) for name in files if name != STATE}
    return Checkpoint(folder, state_in(folder), total, names)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Unsound(f"{path.parent} holds no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Unsound(f"{path} cannot be read ({_first_line(error)})") from error


def _manifest(folder: Path) -> dict[str, Written]:
    found = _json(folder / MANIFEST)
    try:
        kind = found["format"]
        files = {name: Written(**what) for name, what in found["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise Unsound(f"{folder / MANIFEST} is no manifest of a checkpoint") from error
    if kind != FORMAT:
        raise Unsound(f"{folder} has format {kind!r:.40}, this vgen reads {FORMAT}")
    if foreign := sorted(set(files) - set(FILES)):
        raise Unsound(f"{folder / MANIFEST} names {foreign[0]!r:.60}, which is no file of a checkpoint")
    if lacking := {WEIGHTS, STATE} - set(files):
        raise Unsound(f"{folder / MANIFEST} does not name {', '.join(sorted(lacking))}")
    return files


def _compare(path: Path, written: Written) -> None:
    try:
        size = path.stat().st_size
        if size != written.num_bytes:
            raise Unsound(f"{path} has {size} bytes, {written.num_bytes} were written")
        if hashed(path).sha256 != written.sha256:
            raise Unsound(f"{path} is not what was written (sha256 differs)")
    except OSError as error:
        raise Unsound(f"{path} cannot be read ({error.strerror})") from error


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, "pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise Unsound(f"{path} is no safetensors file ({_first_line(error)})") from error


def state_in(folder: Path) -> State:
    """What the folder says of itself, without a look at its tensors or hashes."""
    path = folder / STATE
    found = _json(path)
    try:
        state = State(**found)
    except TypeError as error:
        raise Unsound(f"{path} is no state of a run ({_first_line(error)})") from error
    kinds = (
        ("step", int),
        ("samples", int),
        ("record", dict),
        ("optimizer_steps", dict),
        ("scheduler", dict),
    )
    if wrong := [name for name, kind in kinds if type(getattr(state, name)) is not kind]:
        raise Unsound(f"{path} is no state of a run (its {wrong[0]} is {getattr(state, wrong[0])!r:.40})")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def steps(folder: Path) -> list[Path]:
    """The checkpoints by step, the newest first, sound or not; ``best`` is none of them."""
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def newest(folder: Path) -> tuple[Checkpoint | None, list[Unsound]]:
    """The newest sound checkpoint, and why newer ones were passed over."""
    passed_over: list[Unsound] = []
    for path in steps(folder):
        try:
            return opened(path), passed_over
        except Unsound as why:
            passed_over.append(why)
    return None, passed_over


def remove_leftovers(folder: Path) -> int:
    """Delete what killed processes left of checkpoints that they were writing; returns the bytes."""
    freed = 0
    for path in folder.glob(".*.tmp"):
        freed += size_of(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return freed


def set_aside(folder: Path) -> Path:
    """Take an unsound checkpoint out of the count, where somebody may still look at it."""
    aside = folder.with_name(f"{folder.name}.unsound")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return aside


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(size_of(child) for child in path.iterdir() if not child.is_symlink())
    return path.lstat().st_size
