"""``vgen adapters FILE``: what an adapter was made by, what lies beneath it, and whether that is still
there."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from vgen.app.stacks import adapter_path
from vgen.app.terminal import Terminal
from vgen.formats.adapter import Card, file_sha256, load_adapter

_USAGE = "vgen adapters FILE|RUN [FILE ...]"


def main() -> None:
    names = sys.argv[1:]
    if not names or any("=" in name for name in names):
        raise ValueError(f"give adapters or runs: {_USAGE}, got {' '.join(names) or 'nothing'}")
    for name in names:
        Terminal(soft_wrap=True).print(shown(name))


def shown(name: str) -> Table:
    """Card, base chain and hashes of one adapter."""
    path = adapter_path(name)
    tensors, card = load_adapter(path)
    size = sum(value.numel() for value in tensors.values())
    table = Table(title=str(path), title_justify="left", show_header=False, min_width=44)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("sha256", file_sha256(path))
    table.add_row("method", card.recipe)
    table.add_row("tensors", f"{len(tensors)}, {size:,} parameters")
    table.add_row("image model", f"{card.backbone_source} (fingerprint {card.backbone})")
    table.add_row("written by", f"vgen {card.version}, {card.format}")
    for key, value in card.knobs.items():
        table.add_row(f"method.{key}", str(value))
    for key, value in card.summary.items():
        table.add_row(key, str(value))
    for row in _beneath(card):
        table.add_row(*row)
    if card.init:
        table.add_row("began from", f"{card.init['file']} (sha256 {card.init['sha256']})")
    return table


def _beneath(card: Card) -> list[tuple[str, str]]:
    """The adapters it was trained upon, and how each stands now."""
    rows = []
    for base in card.base:
        path = Path(base["file"])
        if not path.is_file():
            state = "gone"
        else:
            state = "as it was" if file_sha256(path) == base["sha256"] else "CHANGED since"
        rows.append((f"upon {base['name']}", f"{path} ({base['recipe']}, sha256 {base['sha256']}): {state}"))
    return rows
