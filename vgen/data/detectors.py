"""What finds fields in videos that come without them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vgen.backbones import hed, poses
from vgen.backbones.canny import HIGH, LOW, canny
from vgen.backbones.flow import farneback
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


def _canny() -> Detector:
    return Detector(f"canny {LOW} {HIGH}", canny)


def _farneback() -> Detector:
    if importlib.util.find_spec("cv2") is None:
        raise ValueError("flow is found by OpenCV, which is not installed; pip install 'vgen[metrics]'")
    return Detector("farneback of OpenCV", _flow)


def _flow(video: np.ndarray) -> np.ndarray:
    """float32 f-1 h w 2; a still has none."""
    pairs = [farneback(first, second) for first, second in pairwise(video)]
    return np.stack(pairs).astype(np.float32) if pairs else np.zeros((0, *video.shape[1:3], 2), np.float32)


def _hed() -> Detector:
    net = hed.installed()
    return Detector(net.identity, net.edges)


def _scribble() -> Detector:
    net = hed.installed()
    return Detector(f"{net.identity}, thinned", net.scribbles)


def _blaze_pose() -> Detector:
    net = poses.installed()
    return Detector(net.identity, net.see)


def _middle() -> Detector:
    return Detector("the middle frame", lambda video: video[len(video) // 2][None])


def _first_frame() -> Detector:
    return Detector("the first frame", lambda video: video[:1].copy())


def _median() -> Detector:
    return Detector("the median of all frames", _at_rest)


def _at_rest(video: np.ndarray) -> np.ndarray:
    """uint8 1 h w 3: at every place the colour that is seen there most of the time. Of a still it is nothing,
    0 h w 3: what stands before it is never gone."""
    return video[:0] if len(video) == 1 else np.median(video, axis=0, keepdims=True).astype(np.uint8)


_ALL: dict[str, dict[str, Callable[[], Detector]]] = {
    "edges": {"canny": _canny, "hed": _hed},
    "scribble": {"hed": _scribble},
    "pose": {"blaze_pose": _blaze_pose},
    "flow": {"farneback": _farneback},
    "reference": {"first_frame": _first_frame, "middle": _middle},
    "background": {"median": _median},
}
"""By field, the usual one first."""
FOUND = frozenset(_ALL)
"""Fields that can be found in a video."""
SOURCE = "the source"
"""What knows a field without a detector."""


def detector(field: str, by: str = "") -> Detector:
    """What finds ``field``: the usual one, or the one named ``by``.

    Raises ValueError where vgen has none, or where its weights are not installed.
    """
    if field not in _ALL:
        raise ValueError(
            f"vgen has nothing that finds {field} in a video, it finds {', '.join(_ALL)}; give {field} as "
            f"files of your own, in vgen prepare NAME.{field}.* beside NAME.mp4"
        )
    known = _ALL[field]
    if by and by not in known:
        raise ValueError(f"{field} is found by {' or '.join(known)}, got {by}")
    return known[by or next(iter(known))]()


def named(fields: Sequence[str]) -> dict[str, str]:
    """``edges`` and ``edges:hed`` as the field and its detector, empty for the usual one.

    Raises ValueError where a name is no field, or is there twice.
    """
    pairs = [field.partition(":")[::2] for field in fields]
    names = [name for name, _ in pairs]
    unknown = sorted(set(names) - set(FIELDS))
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"fields are {', '.join(FIELDS)}, each once, got {', '.join(fields)}")
    return dict(pairs)


def identities(fields: Sequence[str], known: Collection[str] = ()) -> dict[str, str]:
    """Who finds each field; those of ``known`` are told by the source itself where no detector is named.
    Raises ValueError where nothing finds one."""
    wanted = sorted(named(fields).items())
    return {name: SOURCE if name in known and not by else detector(name, by).identity for name, by in wanted}


def completed(job: Job, sample: Sample, fields: Sequence[str]) -> Sample:
    """The sample with these fields: known to its job, or found in its video. One of nothing is left out.

    Raises Rejected where what was found is no such field.
    """
    found = {name: _found(job, sample, name, by) for name, by in sorted(named(fields).items())}
    there = {name: array for name, array in found.items() if array.size}
    for name, array in there.items():
        try:
            FIELDS[name].check(array, name)
        except ValueError as error:
            raise Rejected(Reason.FAILED, str(error)) from error
    return replace(sample, fields={**sample.fields, **there})


def _found(job: Job, sample: Sample, name: str, by: str) -> np.ndarray:
    known = None if by else job.truth(sample, name)
    if known is not None:
        return known
    assert sample.video is not None  # of a job, which made it
    return detector(name, by).see(sample.video)
