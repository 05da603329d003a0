"""``vgen prepare``: the settings from Hydra, a bar while it works, a table when it is done."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from vgen.app.bars import Bars
from vgen.app.class_images import ClassImages
from vgen.app.config import run_hydra
from vgen.app.corpus_page.page import PAGE, write_page
from vgen.app.drawn_pairs import DrawnPairs
from vgen.app.terminal import Terminal
from vgen.data.folder_source import FolderSource
from vgen.data.listing_source import ListingSource
from vgen.data.pictures import PictureSource
from vgen.data.prepare import USUAL_TOKENS, Prepare, Prepared, prepare
from vgen.data.prepare_share import prepare_share
from vgen.data.toybox import ToyboxSource
from vgen.data.toybox_edits import ToyboxEdits
from vgen.data.workspace import Counts

SOURCES = {
    "folder": FolderSource,
    "listing": ListingSource,
    "toybox": ToyboxSource,
    "toybox_edits": ToyboxEdits,
    "pairs": DrawnPairs,
    "images": PictureSource,
    "class_images": ClassImages,
}


def offer() -> None:
    """The classes are the schema: Hydra refuses what they do not have."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Prepare)
    for name, source in SOURCES.items():
        store.store(group="data", name=name, node=source)


def run(wish: Prepare, console: Console) -> None:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, unit="row") as progress:
        bar = progress.add_task(f"preparing {wish.data.name()}", total=None, found="")

        def watch(done: int, total: int, counts: Counts) -> None:
            progress.update(
                bar,
                completed=done,
                total=total,
                found=f"{counts.clips:,} clips, {counts.rejected:,} rejected",
            )

        done = prepare_share(wish, watch) if wish.share else prepare(wish, watch)
    if isinstance(done, Counts):
        return console.print(of_share(wish, done))
    page = done.folder / PAGE
    if done.fresh or not page.is_file():
        write_page(done.folder)
    return console.print(summary(done, page))


def of_share(wish: Prepare, done: Counts) -> str:
    """What a share has made, and what makes shards of it."""
    if not done.files:
        return f"{wish.folder()} is complete already, nothing to do"
    return (
        f"share {wish.share}: {done.files:,} rows, {done.clips:,} clips, {done.rejected:,} rejected; "
        "when all shares are made the same command without share= packs them into shards"
    )


def summary(done: Prepared, page: Path) -> Table:
    counts = done.manifest.counts
    title = "prepared" if done.fresh else "already complete, nothing to do"
    table = Table(title=title, show_header=False, title_justify="left", min_width=44)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("clips", f"{counts['clips']:,}")
    table.add_row("seconds", f"{counts['seconds']:,.1f}")
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in done.rejected.items())
    table.add_row(
        "rejected",
        f"{counts['rejected']:,} of {counts['files']:,} rows" + (f" ({rejected})" if rejected else ""),
    )
    table.add_row(
        "size",
        f"{counts['bytes'] / 1e6:,.1f} MB in {len(done.manifest.shards):,} "
        f"shard{'s' * (len(done.manifest.shards) != 1)}",
    )
    if done.long_captions:
        table.add_row("long captions", _told_of_long(done.long_captions, counts["files"]))
    table.add_row("where", str(done.folder))
    table.add_row("to look at", str(page))
    for name, by in done.manifest.settings.get("fields", {}).items():
        table.add_row(name, f"found by {by}")
    if done.rejected:
        table.add_row("ledger", str(done.folder / "ledger.jsonl"))
    return table


def _told_of_long(num: int, total: int) -> str:
    return (
        f"{num:,} of {total:,} rows ({num / total:.0%}) have more than {USUAL_TOKENS} words; Stable "
        f"Diffusion's text encoders read {USUAL_TOKENS} tokens, so training leaves out their ends"
    )


def main() -> None:
    """The verb; what the user got wrong leaves as an exception that the command line words."""
    run_hydra("prepare", offer, lambda wish, _plain: run(wish, Terminal()))
