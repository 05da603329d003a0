"""What a source of samples is, whatever they are made of: rows, each of which a worker turns into samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vgen.data.decode import Cut
from vgen.data.ledger import Rejection
from vgen.data.sample import Sample, Video, plain
from vgen.spec import Choice, spec

LONGEST_KEY = 80


class Captions(Choice):
    """Whether a row without a caption is rejected, or becomes clips without one."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of a source that a worker turns into samples. ``source`` is how ledger and metadata name it."""

    row: int
    key: str
    source: str

    def samples(self, scratch: Path) -> Iterator[Sample]:
        raise NotImplementedError

    def truth(self, sample: Sample, name: str) -> np.ndarray | None:
        """The field ``name`` of a sample of this job where it is known without looking at the pixels; None
        where it has to be detected. Raises Rejected where it should be known and is not."""
        return None

    def identity(self) -> dict[str, Any]:
        """What decides the samples, beside the settings; changes between two runs are found by it. Of files
        that is their size: to read all of a corpus before every run would take hours."""
        return asdict(self)


@spec
class Source:
    """What ``data=`` chooses. ``jobs`` lists the rows, those rejected at sight among them."""

    def jobs(self, cut: Cut) -> list[Job | Rejection]:
        raise NotImplementedError

    def name(self) -> str:
        """The folder to write to, where none is said."""
        raise NotImplementedError

    def knows(self) -> tuple[str, ...]:
        """Fields of its samples that it knows without looking at their pixels, or that are given beside
        them."""
        return ()

    def usual(self) -> tuple[int, Video]:
        """size_px and storage, where none is said."""
        return 256, Video.mp4


def safe_key(text: str) -> str:
    """A key that any tar reader takes: letters, digits, ``_ - /``, the rest percent-encoded, long ones
    shortened by a hash."""
    parts = [p for p in text.split("/") if p not in ("", ".")]
    key = "/".join(
        quote(p, safe="", errors="surrogateescape").replace(".", "%2E").replace("~", "%7E") for p in parts
    )
    if len(key) > LONGEST_KEY:
        key = key[: LONGEST_KEY - 17].rstrip("%/") + "-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    return key


def listing_hash(jobs: Iterable[Job | Rejection]) -> str:
    """sha256 over what every row is, so that a source that changed under a half-finished folder is
    noticed."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(
            json.dumps(
                job.to_dict() if isinstance(job, Rejection) else plain(job.identity()), sort_keys=True
            ).encode()
            + b"\n"
        )
    return digest.hexdigest()
