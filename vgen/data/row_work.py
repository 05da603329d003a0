"""What becomes of a row: in a worker, its clips; where that fails, a rejection."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vgen.data.detectors import completed
from vgen.data.files import is_disks_fault
from vgen.data.ledger import Reason, Rejected, Rejection
from vgen.data.pool import Died, Hung
from vgen.data.sample import Encoding, Sample, pack
from vgen.data.sources import Job
from vgen.data.workspace import RowResult


def accident(job: Job, outcome: RowResult | Died | Hung) -> RowResult:
    """The result of a row; a rejection where its worker died or did not end."""
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


def spool_of(scratch: Path, row: int) -> Path:
    """The file that a worker writes the clips of a row to, in a folder of its own."""
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
    spool = spool_of(scratch, job.row)
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
