"""``vgen edit edits=FILE.jsonl``: many edits one after another, each in a folder of its own. What is finished
is not made again, and what fails stops nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from vgen.app import composed
from vgen.app.edit_checks import check_words, refuse_lacking
from vgen.app.edit_run import EditRun
from vgen.app.folders import refuse_unsafe_name
from vgen.app.spellings import respelt
from vgen.data.leftovers import remove_abandoned, temporary
from vgen.formats.adapter import plain
from vgen.methods import Recipe
from vgen.methods._editing import Editing

CARD = "card.json"
_OWN = ("edits", "out")
"""Keys of the list, which no line has."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list: its number from 1, the name of its folder, and the edit."""

    number: int
    name: str
    run: EditRun


def edit_list(
    run: EditRun,
    words: Sequence[str],
    offer: Callable[[], None],
    edit_into: Callable[[EditRun, Path], None],
    console: Console,
) -> Path:
    """The folder of all edits. ``words`` are those of the command line: they hold for every line that says
    nothing else. ``edit_into`` makes one edit in an empty folder.

    Raises ValueError before the first edit where a line is wrong, and after the last where some failed.
    """
    out = Path(run.out or f"outputs/{Path(run.edits).stem}").expanduser()
    entries = read_list(Path(run.edits).expanduser(), words, offer)
    left = [entry for entry in entries if not _is_finished(entry, out)]
    console.print(f"{len(entries)} edits in {run.edits}, {len(entries) - len(left)} of them finished: {out}/")
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    failed = {}
    for entry in left:
        console.print(f"[bold]{entry.name}[/] (line {entry.number})")
        if (why := _tried(entry, out, edit_into)) is not None:
            failed[entry.name] = why
            console.print(f"[red]{entry.name} failed:[/] {why}", soft_wrap=True)
    if failed:
        each = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(
            f"{len(failed)} of {len(entries)} edits failed, and the same command tries them again ({each})"
        )
    return out


def read_list(path: Path, words: Sequence[str], offer: Callable[[], None]) -> list[Entry]:
    """Every line of a list that is not empty. Raises ValueError with its number where it is wrong."""
    if not path.is_file():
        raise ValueError(f"edits={path} is no file; give one with an edit in JSON on every line")
    lines = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
    entries = [_entry(path, number, line, words, offer) for number, line in lines if line.strip()]
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"edits={path} names two edits {twice[0]}; give each line another name")
    if not entries:
        raise ValueError(f"edits={path} holds no edit; write one in JSON on every line")
    return entries


def _entry(path: Path, number: int, line: str, words: Sequence[str], offer: Callable[[], None]) -> Entry:
    where = f"edits={path}, line {number}"
    try:
        keys = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}); write {_LIKE}") from error
    if not isinstance(keys, dict) or (own := [key for key in _OWN if key in keys]):
        said = f"has {', '.join(own)}, which belongs to the list" if isinstance(keys, dict) else "is no edit"
        raise ValueError(f"{where} {said}; write {_LIKE}")
    name = str(keys.pop("name", f"{number:04d}"))
    refuse_unsafe_name(name, f"name ({where})")
    try:
        told, _ = respelt("edit", list(composed.words_of("edit", keys)))
        asked = [*_beneath(words, keys), *told]
        run = composed.of_words("edit", EditRun, offer, asked)
        if isinstance(run.method, Editing):
            recipe = cast(Recipe, run.method)
            check_words(run, recipe)
            refuse_lacking(run, recipe, None)
        return Entry(number, name, run)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


_LIKE = '{"video": "car.mp4", "source": "a jeep", "target": "a red car"}'


def _beneath(words: Sequence[str], keys: dict[str, Any]) -> list[str]:
    """Words of the command line for which a line has nothing of its own. The knobs of the command line's
    method belong to no other one."""
    taken = {*keys, *_OWN}
    out = [word for word in words if word.partition("=")[0].lstrip("+") not in taken]
    return [word for word in out if "method" not in keys or not word.startswith("method.")]


def _is_finished(entry: Entry, out: Path) -> bool:
    """Whether the edit lies there. Raises ValueError where another one does."""
    card = out / entry.name / CARD
    if not card.is_file():
        return False
    found = json.loads(card.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(plain(asdict(entry.run))))
    # the rate is the source's own where that is kept
    differing = [key for key in asked if key not in ("out", "fps") and found.get(key) != asked[key]]
    if differing:
        raise ValueError(
            f"{card.parent} holds another edit than line {entry.number} asks for (it differs in "
            f"{', '.join(differing)}); give out=FOLDER, or another name in that line"
        )
    return True


def _tried(entry: Entry, out: Path, edit_into: Callable[[EditRun, Path], None]) -> str | None:
    """One edit, whole or not at all; in words why it failed."""
    into, made = out / entry.name, temporary(out / entry.name)
    made.mkdir()
    try:
        edit_into(replace(entry.run, out=str(into)), made)
        os.replace(made, into)
    except ValueError as error:
        return str(error)
    except (RuntimeError, MemoryError, OSError) as error:  # of one clip: the others are to be edited
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return None
