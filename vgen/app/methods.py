"""``vgen methods``: the catalogue as a table, for the terminal or as Markdown for the documentation."""
from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from vgen.methods import Regime, catalogue

HEADINGS = ("method", "what it is", "regime", "paper")


def rows() -> list[tuple[str, str, str, str]]:
    """Name, first line of the module, regime and paper of every method; parts of the image model last."""
    out = []
    for name, recipe in sorted(catalogue().items(), key=lambda item: (item[1].regime is Regime.IMAGE, item[0])):
        sentence = (sys.modules[recipe.__module__].__doc__ or "").split("\n")[0].split(" (")[0].rstrip(".")
        out.append((name, sentence, recipe.regime.value, f"{recipe.paper.title} ({recipe.paper.year}, arXiv {recipe.paper.arxiv})"))
    return out


def markdown() -> str:
    lines = [f"| {' | '.join(HEADINGS)} |", "|" + "---|" * len(HEADINGS)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows()])


def main() -> None:
    if "format=markdown" in sys.argv[1:]:
        print(markdown())
        return
    table = Table(*HEADINGS, title="methods", title_justify="left")
    for row in rows():
        table.add_row(*row)
    Console().print(table)
