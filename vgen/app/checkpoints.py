"""``vgen checkpoints RUN``: what a run keeps, whether it is sound, what it takes on the disk, an adapter of
any of it, and whether every sample came once an epoch."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vgen.app.stacks import recipe_of
from vgen.data.audit import AUDIT, Audit
from vgen.data.leftovers import is_abandoned
from vgen.formats.adapter import card_of, save_adapter
from vgen.training import checkpoint_folder as room
from vgen.training.checkpoint_folder import Checkpoint, Unsound
from vgen.training.checkpoints import BEST
from vgen.training.learnt import saved
from vgen.training.older_checkpoints import convert

_USAGE = "vgen checkpoints RUN [list|verify|prune|convert|export|audit] [keep=N] [step=N|best] [out=FILE]"
_KEYS = {
    "list": (),
    "verify": (),
    "prune": ("keep",),
    "convert": (),
    "export": ("step", "out"),
    "audit": (),
}


def main() -> None:
    words = [word for word in sys.argv[1:] if "=" not in word]
    if not words or len(words) > 2:
        raise ValueError(f"give a run and what to do with its checkpoints: {_USAGE}")
    action = words[1] if len(words) > 1 else "list"
    if action not in _KEYS:
        raise ValueError(f"{action} is nothing that can be done to checkpoints: {_USAGE}")
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    if foreign := sorted(set(given) - set(_KEYS[action])):
        raise ValueError(f"{foreign[0]} is not a key of 'vgen checkpoints RUN {action}': {_USAGE}")
    folder = folder_of(words[0])
    doing: dict[str, Callable[..., str | Table]] = {
        "list": listed,
        "verify": verified,
        "prune": pruned,
        "convert": converted,
        "export": exported,
        "audit": audited,
    }
    Console(soft_wrap=True).print(doing[action](folder, **given), markup=False, highlight=False)


def folder_of(name: str) -> Path:
    """The checkpoints of a run's folder, or a folder of checkpoints itself."""
    run = Path(name).expanduser()
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    if not kept(folder) and not older(folder):
        raise ValueError(f"{name} holds no checkpoints; give the folder of a training run")
    return folder


def kept(folder: Path) -> list[Path]:
    """By step, the oldest first, then the best."""
    best = folder / BEST
    return [*reversed(room.steps(folder)), *([best] if best.is_dir() else [])]


def older(folder: Path) -> list[Path]:
    """Checkpoints of the first format."""
    return sorted(folder.glob("step-*.ckpt"))


def listed(folder: Path) -> Table:
    """Everything there, unverified."""
    table = _table(folder)
    for path in kept(folder):
        table.add_row(path.name, *_said(path), _size(room.size_of(path)))
    for path in sorted(set(folder.iterdir()) - set(kept(folder))):
        table.add_row(path.name, "", _about(path), _size(room.size_of(path)))
    table.add_row("together", "", "", _size(room.size_of(folder)))
    return table


def _table(folder: Path) -> Table:
    table = Table(title=str(folder), title_justify="left")
    for name in ("checkpoint", "samples", "", "on disk"):
        table.add_column(name, justify="right" if name in ("samples", "on disk") else "left")
    return table


def _said(path: Path) -> tuple[str, str]:
    try:
        state = room.state_in(path)
    except Unsound as why:
        return "", str(why)
    loss = "" if state.val_loss is None else f"val/loss {state.val_loss:.6g} at step {state.step}"
    return str(state.samples), loss


def _about(path: Path) -> str:
    if path.name == room.LATEST:
        return path.read_text(errors="replace").strip()
    if path.suffix == ".ckpt":
        return "of the first format: 'convert' makes a new one, 'prune' then deletes it"
    return "left over: 'prune' deletes it"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def verified(folder: Path) -> Table:
    """Every hash of every checkpoint. Raises ValueError where one is not what was written."""
    table, unsound = _table(folder), []
    for path in kept(folder):
        try:
            found = room.opened(path)
            table.add_row(path.name, str(found.state.samples), "sound", _size(found.num_bytes))
        except Unsound as why:
            unsound.append(why)
    if unsound:
        raise ValueError(
            f"{len(unsound)} of {len(kept(folder))} checkpoints are not what was written: "
            f"{'; '.join(map(str, unsound))}; 'vgen checkpoints {folder} prune' deletes them"
        )
    return table


def pruned(folder: Path, keep: str = "1") -> str:
    """Delete all but the newest ``keep`` sound checkpoints, what is unsound, and what was left half written;
    ``best`` stays where it is sound."""
    if not keep.isdigit() or int(keep) < 1:
        raise ValueError(f"keep={keep} is no count of checkpoints; keep at least 1")
    sound = [path for path in room.steps(folder) if _is_sound(path)]
    if not sound:
        raise ValueError(f"{folder} has no sound checkpoint to keep; nothing was deleted")
    staying = {*sound[: int(keep)], folder / room.LATEST}
    staying |= {path for path in (folder / BEST,) if _is_sound(path)}
    newest = room.step_of(sound[0])
    staying |= {path for path in older(folder) if _step_of_older(path) > newest}
    staying |= {path for path in folder.glob("*.tmp") if not is_abandoned(path)}  # being written
    going = [path for path in folder.iterdir() if path not in staying]
    freed = sum(room.size_of(path) for path in going)
    for path in going:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    names = ", ".join(sorted(path.name for path in going)) or "nothing"
    return f"deleted {names}: {_size(freed)} freed, {_size(room.size_of(folder))} stay"


def _is_sound(path: Path) -> bool:
    try:
        room.opened(path)
    except Unsound:
        return False
    return True


def _step_of_older(path: Path) -> int:
    return int(path.name.removeprefix("step-").removesuffix(".ckpt"))


def converted(folder: Path) -> str:
    """Make folders of checkpoints of the first format."""
    found = [path for path in older(folder) if not path.with_suffix("").exists()]
    if not found:
        return "nothing to convert: no checkpoint of the first format is without a new one"
    made = [convert(path) for path in found]
    room.point_to(room.steps(folder)[0])
    names = ", ".join(path.name for path in made)
    return f"made {names}; the old files stay until 'vgen checkpoints {folder} prune'"


def exported(folder: Path, step: str = "", out: str = "") -> str:
    """An adapter of one checkpoint: the averages where there are any."""
    if not out.endswith(".safetensors"):
        raise ValueError(f"out={out} names no file to write; give out=FILE.safetensors")
    if Path(out).exists():
        raise ValueError(f"out={out} exists; nothing is overwritten, choose another name")
    found = _chosen(folder, step)
    record: dict[str, Any] = found.state.record
    if not isinstance(record.get("card"), dict):
        raise ValueError(
            f"{found.folder} says not what it was made by (no card in it); finish its run instead"
        )
    summary = {"steps": found.state.step, "clips": found.state.samples}
    plain = record["card"] | {"run": record.get("run", {}), "summary": summary}
    card = card_of(found.folder, plain)
    recipe = recipe_of(card, str(found.folder))
    if not recipe.writes().adapter:
        raise ValueError(
            f"method {card.recipe} trains the image model itself, which no adapter holds; go on with "
            "run.resume=auto, the run's end writes it"
        )
    values = recipe.kept(saved(found))
    save_adapter(Path(out), values, card)
    return f"wrote {out} ({len(values)} tensors, step {found.state.step})"


def _chosen(folder: Path, step: str) -> Checkpoint:
    if step and step != BEST and not step.isdigit():
        raise ValueError(f"step={step} is neither a step nor {BEST}")
    if step == BEST:
        return room.opened(folder / BEST)
    if step:
        return room.opened(folder / f"step-{int(step):07d}")
    found, _ = room.newest(folder)
    if found is None:
        raise ValueError(f"{folder} has no sound checkpoint; 'vgen checkpoints {folder} verify' says why")
    return found


def audited(folder: Path) -> str:
    """What the ledger says of the steps up to the newest sound checkpoint, from which the run would go on.
    Raises ValueError where a sample is lost or repeated."""
    run = folder.parent
    if not (run / AUDIT).is_dir():
        raise ValueError(f"{run} keeps no audit ledger; train with data.audit=true from the first step on")
    audit = Audit.of(run / AUDIT, _chosen(folder, "").state.step)
    try:
        return audit.told()
    except ValueError as wrong:
        raise ValueError(f"audit of {run}: {wrong}") from None
