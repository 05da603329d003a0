"""The procedure behind ``vgen prepare``: rows to workers, their clips in order into shards, everything else
into the ledger."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vgen import __version__
from vgen.data.camera import CameraMove
from vgen.data.decode import Cut
from vgen.data.detectors import SOURCE, identities
from vgen.data.ledger import Rejection, by_reason, read_ledger, write_ledger
from vgen.data.manifest import MANIFEST, Manifest, check_sizes
from vgen.data.pool import run_ordered
from vgen.data.row_work import accident, make_row, spool_of
from vgen.data.sample import Encoding, Video, plain
from vgen.data.segments import SegmentUnit
from vgen.data.shares import Share
from vgen.data.sources import Captions, Job, Source, listing_hash
from vgen.data.workspace import WORK, Counts, Position, RowResult, Workspace
from vgen.data.writer import MEGABYTE, Shard, ShardWriter
from vgen.spec import field, spec

USUAL_FRAMES = 16
USUAL_TOKENS = 75
"""What Stable Diffusion's text encoders read of a caption; a word is a token or more."""
_AS_BEFORE = (Captions.REQUIRED, SegmentUnit.SECONDS)
"""Settings that say what held before there were such settings: folders of older versions stay the same."""


@spec
class Prepare:
    """What ``vgen prepare`` is asked for. The settings of the second group decide bytes; those of the third
    only how they come about."""

    data: Source
    out: str | None = None  # null: data/prepared/NAME

    fps: float = 8.0
    num_frames: int | None = None  # or clip_seconds; null for both: 16 frames
    clip_seconds: float | None = None
    size_px: int | None = None  # null: 256, toybox 64
    video: Video | None = None  # null: mp4, toybox npy
    crf: int = 18
    camera: CameraMove = field(default_factory=CameraMove)
    fields: list[str] = field(default_factory=list)  # found in the videos: edges, pose, ...
    shard_megabytes: float = 256.0

    max_reject_share: float = 0.5
    share: str = ""  # I/N: make every N-th row and no shards; the same command without it goes on
    num_processes: int | None = None  # null: one per core
    deadline_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.clip_seconds is not None and not 0 < self.clip_seconds < math.inf:
            raise ValueError(f"clip_seconds must be positive and finite, got {self.clip_seconds}")
        if not 0 < self.shard_megabytes < math.inf:
            raise ValueError(f"shard_megabytes must be positive and finite, got {self.shard_megabytes}")
        if not 0 <= self.max_reject_share <= 1:
            raise ValueError(f"max_reject_share is a share in 0..1, got {self.max_reject_share}")
        if self.share:
            Share.named(self.share)
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"num_processes must be at least 1, got {self.num_processes}")
        if not 0 < self.deadline_seconds < math.inf:
            raise ValueError(f"deadline_seconds must be positive and finite, got {self.deadline_seconds}")
        if self.encoding().video is Video.mp4 and self.cut().size_px % 2:
            raise ValueError(
                "size_px must be even for video=mp4 (H.264 halves the colour planes), got "
                f"{self.cut().size_px}; video=npy takes any"
            )

    def cut(self) -> Cut:
        by_time = None if self.clip_seconds is None else max(1, round(self.clip_seconds * self.fps))
        if self.num_frames is not None and by_time not in (None, self.num_frames):
            raise ValueError(
                f"clip_seconds={self.clip_seconds:g} at fps={self.fps:g} is {by_time} frames, "
                f"but num_frames={self.num_frames}; give one of the two"
            )
        asked = [n for n in (self.num_frames, by_time, USUAL_FRAMES) if n is not None]
        size_px = self.data.usual()[0] if self.size_px is None else self.size_px
        return Cut(fps=self.fps, num_frames=asked[0], size_px=size_px)

    def reading(self) -> Cut:
        """How videos are read: larger where a camera moves over them."""
        cut = self.cut()
        return replace(cut, size_px=self.camera.reading_px(cut.size_px))

    def encoding(self) -> Encoding:
        return Encoding(video=self.video or self.data.usual()[1], crf=self.crf)

    def folder(self) -> Path:
        return Path(self.out).expanduser() if self.out else Path("data/prepared") / self.data.name()

    def settings(self) -> dict[str, Any]:
        """What decides the bytes, by the names a user would set them by."""
        source = {
            f"data.{k}": v
            for k, v in asdict(self.data).items()
            if k not in ("path", "timeout_seconds") and v not in _AS_BEFORE
        }
        moves = {} if self.camera.move is None else {"camera": asdict(self.camera)}
        return plain(
            {
                "data": type(self.data).__name__,
                **source,
                **moves,
                **asdict(self.cut()),
                **asdict(self.encoding()),
                "shard_megabytes": self.shard_megabytes,
                **({"fields": self.found_by()} if self.fields else {}),
            }
        )

    def found_by(self) -> dict[str, str]:
        """Who finds each field. Raises ValueError where nothing does, or where a camera moves over what was
        known of the picture at rest."""
        found = identities(self.fields, self.data.knows())
        known = [name for name, by in found.items() if by == SOURCE]
        if known and self.camera.move is not None:
            raise ValueError(
                f"camera.move={self.camera.move.value} moves the picture, and {', '.join(known)} is known of "
                "the one at rest; leave one of them out"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """``fresh`` is false where the folder was complete already and nothing was done."""

    folder: Path
    manifest: Manifest
    rejected: dict[str, int]
    fresh: bool
    long_captions: int = 0
    """Rows whose caption has more words than Stable Diffusion's text encoders read tokens."""


Watch = Callable[[int, int, Counts], None]
"""Told of rows done, rows in all, and the counts so far."""


def prepare(wish: Prepare, watch: Watch = lambda done, total, counts: None) -> Prepared:
    """Write the folder, or go on with it, or find it complete. Raises ``ValueError`` with what the user can
    do."""
    jobs = wish.data.jobs(wish.reading())
    facts = {"settings": wish.settings(), "listing": listing_hash(jobs), "vgen_version": __version__}
    folder = wish.folder()
    workspace = Workspace(folder)
    if (folder / MANIFEST).is_file():
        manifest = Manifest.read(folder)
        _same(folder, {"settings": manifest.settings, "listing": manifest.source["listing"]}, facts)
        check_sizes(folder, manifest.shards)
        if workspace.path.is_dir():  # killed between the manifest and the last sweep
            workspace.remove()
        rejected = by_reason(read_ledger(folder))
        return Prepared(
            folder=folder,
            manifest=manifest,
            rejected=rejected,
            fresh=False,
            long_captions=_long_captions(jobs),
        )
    refuse_other(workspace, facts)
    try:
        workspace.open(facts)
        return _fill(wish, jobs, facts, workspace, watch)
    finally:
        workspace.release()


def refuse_other(workspace: Workspace, facts: dict[str, Any]) -> None:
    """Raises ValueError where a folder was begun with other facts, or by somebody else."""
    folder, begun = workspace.folder, workspace.facts()
    if begun is not None:
        _same(folder, begun, facts)
    elif folder.is_dir() and any(p.name != WORK for p in folder.iterdir()):
        raise ValueError(
            f"{folder} is not empty and was not made by vgen prepare; choose another out= or empty it "
            "yourself"
        )


def _same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to mix two kinds of clips in one folder."""
    old, new = before["settings"], now["settings"]
    changed = [
        f"{k} was {old.get(k)!r} and is {new.get(k)!r}"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k)
    ]
    if changed:
        raise ValueError(
            f"{folder} was prepared with other settings ({'; '.join(changed)}); "
            "nothing was overwritten: choose another out= or delete it yourself"
        )
    if before["listing"] != now["listing"]:
        raise ValueError(
            f"{folder} was prepared from other files: since then the source has gained, lost or changed "
            "some; "
            "nothing was overwritten: choose another out= or delete it yourself"
        )
    if before.get("vgen_version", now["vgen_version"]) != now["vgen_version"]:
        raise ValueError(
            f"{folder} was begun by vgen {before['vgen_version']} and this is {now['vgen_version']}; "
            "finish it with the former or choose another out="
        )


def _fill(
    wish: Prepare, jobs: list[Job | Rejection], facts: dict[str, Any], workspace: Workspace, watch: Watch
) -> Prepared:
    shards, rejections, counts = _packed(wish, jobs, workspace, watch)
    write_ledger(workspace.folder, rejections)
    if not counts.clips:
        raise ValueError(
            f"none of {len(jobs)} rows became a clip ({_why(rejections)}); {wish.folder() / 'ledger.jsonl'} "
            "names each of them: mend the "
            f"source and delete {wish.folder()}"
        )
    tally = by_reason(rejections)
    total = {
        **asdict(counts),
        "seconds": round(counts.seconds, 6),
        "rejected_by_reason": tally,
        "bytes": sum(s.size for s in shards),
    }
    manifest = Manifest(
        source={
            "name": wish.data.name(),
            "path": getattr(wish.data, "path", None),
            "listing": facts["listing"],
        },
        settings=facts["settings"],
        counts=total,
        shards=shards,
        vgen_version=facts["vgen_version"],
    )
    manifest.write(workspace.folder)
    workspace.remove()
    return Prepared(
        folder=workspace.folder,
        manifest=manifest,
        rejected=tally,
        fresh=True,
        long_captions=_long_captions(jobs),
    )


def _packed(
    wish: Prepare, jobs: list[Job | Rejection], workspace: Workspace, watch: Watch
) -> tuple[list[Shard], list[Rejection], Counts]:
    """All rows as shards, in order; a killed run goes on behind the last shard that it wrote."""
    shards, position, rejections = workspace.shards()
    counts = position.counts
    fresh_rejections: list[Rejection] = []  # since the last shard

    def commit(shard: Shard | None, row: int, clip: int) -> None:
        if shard is not None:
            shards.append(shard)
            workspace.commit_shard(shard, Position(row=row, clip=clip, counts=counts), fresh_rejections)
            fresh_rejections.clear()

    with ShardWriter(
        workspace.folder, int(wish.shard_megabytes * MEGABYTE), first_shard=len(shards)
    ) as writer:
        for result in results(wish, jobs, range(position.row, len(jobs)), workspace):
            if result.rejection is not None:
                rejections.append(result.rejection)
                fresh_rejections.append(result.rejection)
                counts.rejected += 1
                _refuse_too_many(wish, rejections, result.row + 1, len(jobs))
            skip = position.clip if result.row == position.row else 0
            for number, (sample, members) in enumerate(workspace.read_samples(result, skip), skip):
                commit(writer.write(sample["key"], members), result.row, number)
                counts.clips += 1
                counts.seconds += sample["seconds"]
            counts.files += 1
            watch(result.row + 1, len(jobs), counts)
        commit(writer.close(), len(jobs), 0)
    return shards, rejections, counts


def _long_captions(jobs: list[Job | Rejection]) -> int:
    captions = (getattr(job, "caption", None) or "" for job in jobs)
    return sum(len(caption.split()) > USUAL_TOKENS for caption in captions)


def _refuse_too_many(wish: Prepare, rejections: list[Rejection], done: int, total: int) -> None:
    """Raises ValueError, with the ledger so far written, where too large a share of all rows is rejected."""
    if len(rejections) <= wish.max_reject_share * total:
        return
    write_ledger(wish.folder(), rejections)
    raise ValueError(
        f"{len(rejections)} of the first {done} of {total} rows were rejected ({_why(rejections)}), more "
        "than "
        f"max_reject_share={wish.max_reject_share:g} allows; {wish.folder() / 'ledger.jsonl'} names each of "
        "them: "
        f"mend the source and delete {wish.folder()}, or raise max_reject_share to go on"
    )


def _why(rejections: list[Rejection]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in list(by_reason(rejections).items())[:3])
    return f"{reasons}; first {rejections[0].source}: {rejections[0].detail}"


def results(
    wish: Prepare, jobs: list[Job | Rejection], rows: Sequence[int], workspace: Workspace
) -> Iterator[RowResult]:
    """A result per row, in order: found from an earlier run, rejected at sight, or made by a worker now."""
    to_do = [jobs[row] for row in rows if not isinstance(jobs[row], Rejection) and not workspace.has_row(row)]
    num_processes = min(wish.num_processes or os.cpu_count() or 1, len(to_do))
    change = partial(wish.camera.moved, size_px=wish.cut().size_px)
    work = partial(
        make_row,
        scratch=workspace.scratch,
        encoding=wish.encoding(),
        change=change,
        found=tuple(wish.fields),
    )
    awaited = {job.row for job in to_do}
    with closing(
        run_ordered(
            work,
            to_do,
            num_processes=num_processes,
            deadline_seconds=wish.deadline_seconds,
            preload=[make_row.__module__],
        )
    ) as outcomes:
        for row in rows:
            job = jobs[row]
            if isinstance(job, Rejection):
                yield RowResult(row=row, samples=[], rejection=job)
                continue
            if row in awaited:
                result = accident(job, next(outcomes))
                workspace.write_row(result, spool_of(workspace.scratch, row) if result.samples else None)
                shutil.rmtree(spool_of(workspace.scratch, row).parent, ignore_errors=True)
            yield workspace.read_row(row)
