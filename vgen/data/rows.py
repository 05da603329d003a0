"""Rows of a source to what a workspace keeps of them: each made by a worker of its own, in order."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vgen.data.detectors import completed
from vgen.data.files import is_disks_fault
from vgen.data.ledger import Reason, Rejected, Rejection
from vgen.data.pool import Died, Hung, run_ordered
from vgen.data.sample import Encoding, Sample, pack
from vgen.data.sources import Job
from vgen.data.workspace import RowResult, Workspace

if TYPE_CHECKING:
    from vgen.data.prepare import Prepare


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
            preload=[__name__],
        )
    ) as outcomes:
        for row in rows:
            job = jobs[row]
            if isinstance(job, Rejection):
                yield RowResult(row=row, samples=[], rejection=job)
                continue
            if row in awaited:
                result = _accident(job, next(outcomes))
                workspace.write_row(result, _spool(workspace.scratch, row) if result.samples else None)
                shutil.rmtree(_spool(workspace.scratch, row).parent, ignore_errors=True)
            yield workspace.read_row(row)


def _accident(job: Job, outcome: RowResult | Died | Hung) -> RowResult:
    match outcome:
        case Died(exit_code):
            reason, detail = Reason.WORKER_DIED, f"its worker process ended with exit code {exit_code}"
        case Hung(seconds):
            reason, detail = (
                Reason.TIMED_OUT,
                f"not done after {seconds:g} s (deadline_seconds; long videos need more)",
            )
        case RowResult():
            return outcome
    return RowResult(row=job.row, samples=[], rejection=_rejection(job, reason, detail))


def _rejection(job: Job, reason: Reason, detail: str) -> Rejection:
    return Rejection(row=job.row, key=job.key, source=job.source, reason=reason, detail=detail)


def _spool(scratch: Path, row: int) -> Path:
    return scratch / f"{row:09d}" / "spool"


def make_row(
    job: Job,
    scratch: Path,
    encoding: Encoding,
    change: Callable[[Sample], Sample] = lambda sample: sample,
    found: tuple[str, ...] = (),
) -> RowResult:
    """In a worker: decode, change, find fields, encode, and spool the clips to disk one by one, so that a
    long video needs no more memory than a short one."""
    spool = _spool(scratch, job.row)
    spool.parent.mkdir()
    samples, offset = [], 0
    with open(spool, "wb") as file:
        try:
            samples_of: Iterable[Sample] = map(change, job.samples(spool.parent))
            if found:
                samples_of = (completed(job, sample, found) for sample in samples_of)
            for sample, members in _packed(samples_of, encoding):
                places = {}
                for extension, payload in members.items():
                    file.write(payload)
                    places[extension] = (offset, len(payload), zlib.crc32(payload))
                    offset += len(payload)
                samples.append(
                    {
                        "key": sample.id,
                        "seconds": sample.num_frames / sample.metadata["fps"],
                        "members": places,
                    }
                )
        except Rejected as rejected:
            return RowResult(
                row=job.row, samples=[], rejection=_rejection(job, rejected.reason, rejected.detail)
            )
    return RowResult(row=job.row, samples=samples)


def _packed(samples: Iterable[Sample], encoding: Encoding) -> Iterator[tuple[Sample, dict[str, bytes]]]:
    """Samples and their members; what goes wrong in a decoder belongs to the file, what goes wrong on our
    disk does not."""
    try:
        for sample in samples:
            yield sample, pack(sample, encoding)
    except Exception as error:
        if isinstance(error, Rejected) or is_disks_fault(error):
            raise
        raise Rejected(Reason.FAILED, f"{type(error).__name__}: {error}") from error
