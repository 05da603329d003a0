"""``vgen methods``: the catalogue in a line each; ``format=markdown`` is the README's table, ``format=pages``
is docs/methods.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rich.console import Console
from rich.table import Table

from vgen.app import figures
from vgen.app.show import describe
from vgen.formats.foreign import Foreign
from vgen.methods import Recipe, Regime, catalogue

HEADINGS = ("method", "what it is", "regime", "paper")
SHORT = 24
HEAD = ("system", "what it is", "measured on the toybox", "beside other code", "formats")
MORE = "vgen show NAME: its row. docs/methods.md: commands, pictures, figures, what was run beside it."
DEVIATIONS, GALLERY = "guides/faithfulness.md", "gallery/index.html"
_EDITING = (
    "Systems that edit, on the same 32 clips of the toybox (`python -m benchmarks.systems.editing_table "
    "out=FOLDER` prints it anew): EDIT is the harmonic mean of whether what was asked is there, whether the "
    "rest is kept, path and ground; TC says whether things stay what and where they are; warp is the error "
    "along the true motion, less is better. Means with 95 % intervals; seconds of one CPU core, starting and "
    "judging among them."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a row does not say of itself: what it is in a few words (``short``), a ``command``, how far it
    lies from other code on the same weights (``parity``), and the ``section`` of docs/guides/faithfulness.md
    with all departures."""

    short: str
    command: str
    parity: str = ""
    section: str = ""


@cache
def told() -> dict[str, Told]:
    """By method, those of systems.json."""
    found = json.loads((files("vgen.app") / "systems.json").read_text(encoding="utf-8"))
    return {name: Told(**own) for name, own in found.items()}


def about(name: str) -> Told:
    """Of a method that nothing is told of, its own first words."""
    sentence = _first_sentence(_words(catalogue()[name]))
    return told().get(name) or Told(short=sentence[:SHORT], command=f"vgen show {name}")


def rows() -> list[tuple[str, str, str, str]]:
    """Name, first sentence of the module, regime and paper of every method; parts of the image model last."""
    out = []
    for name, recipe in sorted(
        catalogue().items(), key=lambda item: (item[1].regime is Regime.IMAGE, item[0])
    ):
        sentence = _first_sentence(_words(recipe))
        paper = recipe.paper
        row = (name, sentence, recipe.regime.value, f"{paper.title} ({paper.year}, arXiv {paper.arxiv})")
        out.append(row)
    return out


def _words(recipe: type[Recipe]) -> str:
    return (sys.modules[recipe.__module__].__doc__ or "").strip()


def _first_sentence(text: str) -> str:
    """Of the first paragraph, without what stands in brackets behind it."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return paragraph.split(" (")[0].split(". ")[0].rstrip(".")


def markdown() -> str:
    return _table(HEADINGS, rows())


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in lines])


def head() -> list[str]:
    """What the page of all methods begins with: how it came about, the table of all, and that of systems that
    edit."""
    how = (
        "Written by `vgen methods format=pages`. Figures are means with 95 % intervals over held-out clips "
        "of the toybox; `python -m benchmarks.systems out=FOLDER` makes them and the pictures anew. *Beside "
        "other code* is the greatest difference over the greatest output on the same weights and inputs."
    )
    if figures.measured():
        how += f" All pictures on one page: [{GALLERY}]({GALLERY})."
    parts = [f"# Methods\n\n{how}\n\n{_table(HEAD, _heads())}\n"]
    table = "\n".join(figures.editing_table(figures.measured()))
    return [*parts, *([f"{_EDITING}\n\n{table}\n"] if table else [])]


def pages() -> str:
    """The head, and a page of each: what it is, its command, picture, figures, and its expanded row on Stable
    Diffusion 1.5's shapes."""
    parts = [*head(), *(_page(name, catalogue()[name]) for name, *_ in rows())]
    return "\n".join(parts)


def _heads() -> list[tuple[str, ...]]:
    out: list[tuple[str, ...]] = []
    for name, sentence, *_ in rows():
        recipe, beside = catalogue()[name], about(name).parity or "nothing"
        out.append((f"[{name}](#{name})", sentence, figures.first(name), beside, _formats(recipe)))
    return out


def _page(name: str, recipe: type[Recipe]) -> str:
    known, paper = about(name), recipe.paper
    facts = [f"Paper: [{paper.title}](https://arxiv.org/abs/{paper.arxiv}) ({paper.year})"]
    if known.section:
        where = f"[all departures]({DEVIATIONS}#{anchor(known.section)})"
        facts.append(f"Beside other code: {known.parity}; {where}")
    facts.append(f"Formats of other programs: {_formats(recipe)}")
    row = f"```\n{describe(name, {}, 'sd15')}\n```"
    parts = [
        f"## {name}",
        _words(recipe),
        f"```bash\n{known.command}\n```",
        _picture(name),
        "\n".join(figures.lines(name)),
        "\n".join(f"- {fact}" for fact in facts),
        f"<details><summary>The row, on Stable Diffusion 1.5's shapes</summary>\n\n{row}\n\n</details>\n",
    ]
    return "\n\n".join(part for part in parts if part)


def _picture(name: str) -> str:
    found = figures.measured().get(name)
    if found is None:
        return ""
    return f"![{name}, moving pictures: {'; '.join(found['titles'])}](gallery/{name}.webp)"


def anchor(section: str) -> str:
    """Of a heading, as GitHub and editors make it."""
    return "".join(c for c in section.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _formats(recipe: type[Recipe]) -> str:
    named = [f"{one.name} ({_ways(one)})" for one in recipe.formats]
    return ", ".join(named) or "vgen's own"


def _ways(one: Foreign) -> str:
    if not one.containers:
        return "in"
    return "out" if one.written_only else "in, out"


def main() -> None:
    ways = {
        "format=table": _print_table,
        "format=markdown": lambda: print(markdown()),
        "format=pages": lambda: print(pages().rstrip()),
    }
    asked = sys.argv[1:] or ["format=table"]
    if len(asked) != 1 or asked[0] not in ways:
        raise ValueError(
            f"the table can be had as {', '.join(ways)} and takes nothing else, got {' '.join(asked)}"
        )
    ways[asked[0]]()


def _print_table() -> None:
    """A line for each, within 80 columns where nobody watches."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    for name, *_ in rows():
        table.add_row(name, about(name).short, figures.brief(name))
    console = Console()
    console.print(table)
    console.print(MORE, soft_wrap=True)


if __name__ == "__main__":
    main()
