"""A share of ``vgen prepare``: its rows, made into the folder of all, where others make theirs meanwhile."""

from __future__ import annotations

from vgen import __version__
from vgen.data.manifest import MANIFEST
from vgen.data.prepare import Prepare, Watch, refuse_other, results
from vgen.data.shares import Share
from vgen.data.sources import listing_hash
from vgen.data.workspace import Counts, Workspace


def prepare_share(wish: Prepare, watch: Watch = lambda done, total, counts: None) -> Counts:
    """What the rows of ``wish.share`` hold; all of them stay for the whole, which then packs them into
    shards: the same as without shares. Nothing is made where the folder is complete.

    Raises ``ValueError`` with what the user can do.
    """
    jobs, counts = wish.data.jobs(wish.reading()), Counts()
    facts = {"settings": wish.settings(), "listing": listing_hash(jobs), "vgen_version": __version__}
    workspace = Workspace(wish.folder())
    if (workspace.folder / MANIFEST).is_file():
        return counts
    refuse_other(workspace, facts)
    rows = Share.named(wish.share).part(range(len(jobs)))
    try:
        workspace.join(facts)
        for result in results(wish, jobs, rows, workspace):
            counts.files += 1
            counts.clips += len(result.samples)
            counts.rejected += result.rejection is not None
            counts.seconds += sum(sample["seconds"] for sample in result.samples)
            watch(counts.files, len(rows), counts)
    finally:
        workspace.release()
    return counts
