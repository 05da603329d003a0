"""``vgen export``: an adapter in the format another program reads, or theirs in ours; what is written has
proved itself."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from hydra.core.config_store import ConfigStore
from rich.table import Table
from torch import Tensor

from vgen.app.config import run_hydra
from vgen.app.loading import load_backbone
from vgen.app.pieces import Adapter, Piece, Published
from vgen.app.terminal import Terminal
from vgen.backbones.image_model_folder import save
from vgen.formats import proof, single_file
from vgen.formats.adapter import load_adapter, save_adapter
from vgen.formats.foreign import Foreign, Rows
from vgen.formats.state_file import Container
from vgen.methods import catalogue
from vgen.spec import Choice, spec

VGEN, IMAGE_MODEL = "vgen", "image_model"
"""What can be written beside the formats of recipes."""


class Width(Choice):
    FP32 = "fp32"
    FP16 = "fp16"


FOREIGN = ("pt", "pth", "bin")
DTYPE = {Width.FP32: torch.float32, Width.FP16: torch.float16}


def formats() -> dict[str, Foreign]:
    """Every format of other programs that some recipe can be written in, by name."""
    every = [one for recipe in catalogue().values() for one in recipe.formats]
    return {one.name: one for one in every if one.containers}


@spec
class Export:
    """``run`` is a run's folder or an adapter, ``source`` (``from=``) a file or folder of another program;
    one of both. ``to`` is ``vgen``, or a format of the method's recipe; the recipe's first where it is not
    given.

    ``container`` follows the suffix of ``out`` unless it is given. ``num_positions`` is for files that carry
    no table, ``method`` for those that may be of several methods. ``to=image_model`` unfolds a Stable
    Diffusion file into a diffusers folder; there ``backbone`` holds the configurations of its family.
    """

    run: str = ""
    source: str = ""
    to: str = ""
    out: str = ""
    backbone: str = ""
    dtype: Width = Width.FP32
    container: Container | None = None
    num_positions: int = 0
    method: str = ""

    def __post_init__(self) -> None:
        self._check_format()
        self._check_source()
        self._check_out()

    def _check_format(self) -> None:
        known = [VGEN, *formats(), IMAGE_MODEL]
        if self.to and self.to not in known:
            raise ValueError(f"to: {self.to!r} is no format; expected one of [{', '.join(known)}]")

    def _check_source(self) -> None:
        if bool(self.run) == bool(self.source):
            raise ValueError(
                "vgen export needs one of run=FOLDER (ours, to write) and from=FILE (theirs, to import)"
            )
        if not self.out:
            raise ValueError("vgen export needs the file or folder to write: out=PATH")
        if self.source and not self.backbone:
            raise ValueError(
                f"from={self.source} needs the image model that it was trained on: backbone=FOLDER (or "
                "toybox)"
            )
        if self.to == IMAGE_MODEL and not self.source:
            raise ValueError(
                "to=image_model unfolds a Stable Diffusion file: give it with from=FILE; a run that trained "
                "an image model holds it in image_model/ already"
            )
        if self.num_positions < 0 or (self.num_positions and self.run):
            raise ValueError(
                "num_positions is for imported files that carry no position table, got "
                f"{self.num_positions}; leave it out"
            )
        if self.method and self.run:
            raise ValueError(
                f"method is for imported files that may be of several methods, got method={self.method}; a "
                "run knows its own, leave it out"
            )

    def _check_out(self) -> None:
        suffix = Path(self.out).suffix.removeprefix(".")
        if self.container and suffix in ("safetensors", "ckpt") and suffix != self.container.value:
            raise ValueError(
                f"out={self.out} ends in .{suffix}, container={self.container.value} says otherwise; give "
                "one of them"
            )
        if not self.to:
            return
        written = _written_as(self.to)
        if suffix in FOREIGN and written:
            raise ValueError(
                f"out={self.out} ends in .{suffix}, to={self.to} is written as {written}; choose one of these"
            )
        in_archives = [name for name, one in formats().items() if Container.CKPT in one.containers]
        if self.to not in in_archives and (self.container is Container.CKPT or suffix == "ckpt"):
            raise ValueError(
                f"to={self.to} is written as safetensors only, got container ckpt; "
                f"{' or '.join(f'to={name}' for name in in_archives)} knows .ckpt"
            )

    def path(self) -> Path:
        """What will be written: a file, or a folder. ``to`` must have been chosen."""
        out = Path(self.out).expanduser()
        if self.to == VGEN:
            return out if out.suffix == ".safetensors" else out / "adapter.safetensors"
        if self.to == IMAGE_MODEL or formats()[self.to].folder:
            return out
        if out.suffix in (".safetensors", ".ckpt"):
            return out
        return out.with_name(f"{out.name}.{(self.container or Container.SAFETENSORS).value}")


def _written_as(to: str) -> str:
    """How the files of a format end; nothing for folders, whose names are free."""
    if to == VGEN:
        return ".safetensors or a folder"
    if to == IMAGE_MODEL or formats()[to].folder:
        return ""
    return " or ".join(f".{container.value}" for container in formats()[to].containers)


def offer() -> None:
    ConfigStore.instance().store(name="schema", node=Export)


def main() -> None:
    sys.argv = [f"source={a.removeprefix('from=')}" if a.startswith("from=") else a for a in sys.argv]
    run_hydra("export", offer, lambda wish, _plain: Terminal().print(export(wish)))


def export(wish: Export) -> Table:
    """Write beside, prove, then move into place: what fails its proof never appears under its name."""
    if wish.to == IMAGE_MODEL:
        return unfold(wish)
    given = Published(wish.source, wish.method) if wish.source else Adapter(wish.run)
    wish, foreign = chosen(wish, given)
    path = unused(wish)
    piece = opened(wish, given)
    del given  # it holds all of the file that was read
    piece.tensors = cast(piece.tensors, wish.dtype)
    with beside(path) as place:
        rows = write_vgen(place, piece) if foreign is None else foreign.write(place, piece.learnt())
    return summary(wish, path, rows, piece.notes)


def chosen(wish: Export, given: Adapter | Published) -> tuple[Export, Foreign | None]:
    """The wish with a format that the recipe has, and that format; None for vgen's own. Raises ValueError
    where the recipe has no such format."""
    own = {one.name: one for one in given.method.formats if one.containers}
    to = wish.to or next(iter(own), "")
    if to != VGEN and to not in own:
        names = f"to={to} has no names" if to else "no other program has names"
        verb = "export" if wish.run else "import"
        raise ValueError(f"{given}, for which {names}; {verb} it to={' or to='.join([VGEN, *own])}")
    return replace(wish, to=to), own.get(to)


def opened(wish: Export, given: Adapter | Published) -> Piece:
    if isinstance(given, Published):
        return given.opened(wish.backbone, wish.num_positions)
    return given.copy() if wish.to == VGEN else given.opened(wish.backbone)


def unused(wish: Export) -> Path:
    path = wish.path()
    if path.exists():
        raise ValueError(f"{path} exists and is never overwritten; remove it or choose another out=")
    return path


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place to write in; what stands there at the end is moved to ``path``. Nothing stays if it raises."""
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            yield Path(folder) / path.name
            os.replace(Path(folder) / path.name, path)
    except BaseException:
        if is_new and not any(path.parent.iterdir()):
            path.parent.rmdir()
        raise


def unfold(wish: Export) -> Table:
    """A Stable Diffusion file to a folder; every tensor is accounted for in reading, and the folder is read
    back."""
    path, rows = unused(wish), []
    model = single_file.load(Path(wish.source).expanduser(), Path(wish.backbone).expanduser())
    with beside(path) as place:
        save(model, place, DTYPE[wish.dtype])
        back = load_backbone(str(place)).components()
        for name, module in model.components().items():
            written = {n: v.to(DTYPE[wish.dtype]).float() for n, v in module.state_dict().items()}
            count = proof.same(written, back[name].state_dict(), f"{path}, {name},")
            rows.append((f"read back {name}", f"{count} tensors, equal to the bit"))
    return summary(wish, path, rows, [])


def cast(tensors: dict[str, Tensor], width: Width) -> dict[str, Tensor]:
    out = {name: value.to(DTYPE[width]) for name, value in tensors.items()}
    broken = [name for name, value in out.items() if not torch.isfinite(value).all()]
    if broken:
        wider = ", or dtype=fp32 is needed" if width is not Width.FP32 else ""
        raise ValueError(
            f"{len(broken)} tensors are not finite in {width.value} (first: {', '.join(broken[:3])}); the "
            f"training diverged{wider}"
        )
    return out


def write_vgen(path: Path, piece: Piece) -> Rows:
    save_adapter(path, piece.tensors, piece.card, next(iter(piece.tensors.values())).dtype)
    back, _ = load_adapter(path)
    rows = [("read back", f"{proof.same(piece.tensors, back, str(path))} tensors, equal to the bit")]
    if piece.model is not None and piece.read_as is not None:
        learnt = piece.learnt()
        own = proof.forward(learnt, learnt.knobs, back, piece.read_as.proof_frames(learnt.knobs))
        text = f"the module runs in it, output between {own.min():.2f} and {own.max():.2f}"
        rows.append(("image model", f"{piece.model.source}: {text}"))
    return rows


def summary(wish: Export, path: Path, rows: list[tuple[str, str]], notes: list[str]) -> Table:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    table = Table(
        title="imported" if wish.source else "exported", show_header=False, title_justify="left", min_width=44
    )
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("wrote", str(path))
    table.add_row("format", f"{wish.to}, {wish.dtype.value}, {size / 1e6:,.1f} MB")
    for name, text in rows:
        table.add_row(name, text)
    for note in notes:
        table.add_row("note", note)
    return table
