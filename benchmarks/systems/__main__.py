"""Every figure and picture of ``docs/methods.md``, made anew from seeds, one system after another.

    python -m benchmarks.systems out=FOLDER [only=control_net,disco] [short=true] [publish=true]

Each command runs once: what was stopped goes on where it was when the same is given again. Hours on a CPU.
``short=true`` asks for two steps and two clips of everything, to see that every command works.
``publish=true`` puts what is in FOLDER into the package and ``docs/gallery`` (never what is short).
"""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import benchmarks.systems
from benchmarks.systems.gallery import SIX, write_gallery, write_picture
from benchmarks.systems.plan import ROOT, Workplace, plain
from vgen.methods import catalogue

DEFAULTS = {"out": "", "only": "", "short": "false", "publish": "false"}
BEGINS, ENDS = "<!-- six: written by 'python -m benchmarks.systems' -->\n", "<!-- /six -->"
PUBLISHED = ROOT / "vgen" / "app" / "figures.json"


def main(given: Sequence[str]) -> None:
    how = DEFAULTS | dict(word.partition("=")[::2] for word in given)
    unknown = sorted(set(how) - set(DEFAULTS))
    if unknown or not how["out"]:
        raise SystemExit(f"give out=FOLDER; settings are {', '.join(DEFAULTS)}, got {' '.join(given)}")
    work = Workplace(Path(how["out"]).absolute(), short=how["short"] == "true")
    for name in _asked(how["only"]):
        print(name, flush=True)
        measure(work, name)
    if how["publish"] == "true":
        publish(work)


def systems() -> list[str]:
    """Methods that have a file here."""
    files = {module.name for module in pkgutil.iter_modules(benchmarks.systems.__path__)}
    return sorted(files & set(catalogue()))


def _asked(only: str) -> list[str]:
    there = systems()
    asked = only.split(",") if only else there
    if unknown := sorted(set(asked) - set(there)):
        raise SystemExit(f"only={','.join(unknown)} has no file in benchmarks/systems; there are {there}")
    return asked


def measure(work: Workplace, name: str) -> None:
    """One system's figures, into ``FOLDER/figures/NAME.json``, its picture beside them."""
    module = import_module(f"benchmarks.systems.{name}")
    work.notes.clear()
    figures = [plain(figure) for figure in module.measured(work)]
    panels = module.picture(work)
    folder = work.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(folder / f"{name}.webp", panels)
    minutes = round(sum(note["cpu_s"] for note in work.notes) / 60, 1)
    row = {
        "figures": figures,
        **({"editing": module.editing(work)} if hasattr(module, "editing") else {}),
        "commands": [note["command"] for note in work.notes],
        "cpu_minutes": minutes,
        "titles": [title for title, _ in panels],
        "short": work.short,
    }
    (folder / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


def publish(work: Workplace) -> None:
    """Figures into the package, from which ``vgen methods`` reads them; pictures into ``docs/gallery``."""
    known = json.loads(PUBLISHED.read_text(encoding="utf-8")) if PUBLISHED.is_file() else {}
    for path in sorted((work.folder / "figures").glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        if row.pop("short"):
            raise SystemExit(f"{path} is of the short form, which shows nothing; give another out=FOLDER")
        known[path.stem] = row
        picture = ROOT / "docs" / "gallery" / f"{path.stem}.webp"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(path.with_suffix(".webp").read_bytes())
    PUBLISHED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_gallery(ROOT / "docs" / "gallery", known)
    if (ROOT / "docs" / "gallery" / "six.webp").is_file():
        _show_six(ROOT / "README.md")


def _show_six(readme: Path) -> None:
    """The picture of six systems, between its marks."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGINS)
    after = rest.split(ENDS)[1]
    image = f"![moving pictures of six systems: {', '.join(SIX)}](docs/gallery/six.webp)\n"
    readme.write_text(f"{before}{BEGINS}{image}{ENDS}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
