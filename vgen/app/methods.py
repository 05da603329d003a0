"""``vgen methods``: the catalogue as a table; ``format=markdown`` is the README's, ``format=pages`` is
docs/methods.md."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from vgen.app import figures
from vgen.app.show import describe
from vgen.methods import Regime, catalogue

HEADINGS = ("method", "what it is", "regime", "paper")
_EDITING = (
    "Systems that edit, on the same 32 clips of the toybox (`python -m benchmarks.systems.editing_table "
    "out=FOLDER` prints it anew): EDIT is the harmonic mean of whether what was asked is there, whether the "
    "rest is kept, path and ground; TC says whether things stay what and where they are; warp is the error "
    "along the true motion, less is better. Means with 95 % intervals; one CPU core."
)


def rows() -> list[tuple[str, str, str, str]]:
    """Name, first sentence of the module, regime and paper of every method; parts of the image model last."""
    out = []
    for name, recipe in sorted(
        catalogue().items(), key=lambda item: (item[1].regime is Regime.IMAGE, item[0])
    ):
        sentence = _first_sentence(sys.modules[recipe.__module__].__doc__ or "")
        out.append(
            (
                name,
                sentence,
                recipe.regime.value,
                f"{recipe.paper.title} ({recipe.paper.year}, arXiv {recipe.paper.arxiv})",
            )
        )
    return out


def _first_sentence(text: str) -> str:
    """Of the first paragraph, without what stands in brackets behind it."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return paragraph.split(" (")[0].split(". ")[0].rstrip(".")


def markdown() -> str:
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows()])


def head() -> list[str]:
    """What the page of all methods begins with: how it came about, and the table of systems that edit."""
    how = (
        "Written by `vgen methods format=pages`: every row on Stable Diffusion 1.5's shapes, with the "
        "paper's own knobs."
    )
    table = "\n".join(figures.editing_table(figures.measured()))
    return [f"# Methods\n\n{how}\n", *([f"{_EDITING}\n\n{table}\n"] if table else [])]


def pages() -> str:
    """Every method's picture and figures on the toybox, and its expanded row on Stable Diffusion 1.5's
    shapes."""
    parts = head()
    for name, *_ in rows():
        words = (sys.modules[catalogue()[name].__module__].__doc__ or "").strip()
        picture = f"![{name} on the toybox](gallery/{name}.webp)" if figures.lines(name) else ""
        shown = "\n".join(filter(None, [picture, "", *figures.lines(name)]))
        row = f"```\n{describe(name, {}, 'sd15')}\n```\n"
        parts.append("\n\n".join(filter(None, [f"## {name}", words, shown.strip(), row])))
    return "\n".join(parts)


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
    table = Table(*HEADINGS, title="methods", title_justify="left")
    for row in rows():
        table.add_row(*row)
    Console().print(table)
