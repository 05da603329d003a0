"""What finds fields in videos that come without them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from vgen.backbones.canny import HIGH, LOW, canny
from vgen.data.fields import FIELDS
from vgen.data.ledger import Reason, Rejected
from vgen.data.sample import Sample
from vgen.data.sources import Job

See = Callable[[np.ndarray], np.ndarray]
"""From a video uint8 f h w 3 to an array of a field, in the axes in which it is stored."""


@dataclass(frozen=True, slots=True)
class Detector:
    """``identity`` names it and its weights: shards whose fields were found by another are never mixed with
    its own."""

    identity: str
    see: See


_ALL: dict[str, Callable[[], Detector]] = {"edges": lambda: Detector(f"canny {LOW} {HIGH}", canny)}


def detector(field: str) -> Detector:
    """What finds ``field``. Raises ValueError where vgen has nothing that does."""
    if field not in _ALL:
        raise ValueError(
            f"vgen has nothing that finds {field} in a video, it finds {', '.join(_ALL)}; give {field} as "
            "files of your own"
        )
    return _ALL[field]()


def identities(fields: Collection[str], known: Collection[str] = ()) -> dict[str, str]:
    """Who finds each field; those of ``known`` are told by the source itself.

    Raises ValueError where a name is no field, or nothing finds it.
    """
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"fields are {', '.join(FIELDS)}, got {', '.join(unknown)}")
    return {name: "the source" if name in known else detector(name).identity for name in sorted(fields)}


def completed(job: Job, sample: Sample, fields: Collection[str]) -> Sample:
    """The sample with these fields: known to its job, or found in its video. One of nothing is left out.

    Raises Rejected where what was found is no such field.
    """
    found = {name: _found(job, sample, name) for name in sorted(fields)}
    there = {name: array for name, array in found.items() if array.size}
    for name, array in there.items():
        try:
            FIELDS[name].check(array, name)
        except ValueError as error:
            raise Rejected(Reason.FAILED, str(error)) from error
    return replace(sample, fields={**sample.fields, **there})


def _found(job: Job, sample: Sample, name: str) -> np.ndarray:
    known = job.truth(sample, name)
    if known is not None:
        return known
    assert sample.video is not None  # of a job, which made it
    return detector(name).see(sample.video)
