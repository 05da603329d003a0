"""A dance on another body: poses with the bone lengths of somebody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vgen.backbones.joints import LAYOUTS, converted, missing

ROOT = "mid_hip"
_SIDE = {
    "hip": ROOT,
    "knee": "hip",
    "ankle": "knee",
    "heel": "ankle",
    "big_toe": "ankle",
    "small_toe": "ankle",
    "foot_index": "ankle",
    "shoulder": "neck",
    "elbow": "shoulder",
    "wrist": "elbow",
    "pinky": "wrist",
    "index": "wrist",
    "thumb": "wrist",
    "eye": "nose",
    "eye_inner": "nose",
    "eye_outer": "nose",
    "ear": "nose",
}
"""Of a joint that has two sides, what it hangs on; a nose and a neck have one."""
_MIDDLE = {ROOT: "", "neck": ROOT, "nose": "neck", "mouth_left": "nose", "mouth_right": "nose"}
LONG = 0.9
"""A bone's length is this quantile over frames: pictures shorten what points at the camera, and detectors
err."""


def retargeted(pose: Tensor, reference: Tensor) -> Tensor:
    """``pose`` f p j 3 with the bone lengths of the body ``reference`` ... j 3, as many shares of the picture
    long (x, y and confidence; both may have another order of joints).

    Every bone is longer or shorter by one factor in all frames, so that angles and what points at the camera
    stay; its two sides have one factor, that of their longer lengths. A bone that the reference does not show
    has the median factor. Hips stay where they are, missing joints missing. Raises ValueError where the two
    have no bone in common.
    """
    names = LAYOUTS[pose.shape[2]]
    joints = _named(pose, names)
    wanted = lengths(_body(reference))
    out = pose.clone()
    for i in range(pose.shape[1]):
        person = _moved(_person(joints, i), wanted)
        places = torch.stack([person[name] for name in names], 1)
        out[:, i, :, :2] = torch.where(places.isnan(), pose[:, i, :, :2], places)
    return out


def lengths(joints: Mapping[str, Tensor]) -> dict[str, float]:
    """Of every bone, by the joint at its far end without its side; ``joints`` f 2 by name, nan where they are
    missing."""
    found: dict[str, float] = {}
    for name in joints:
        over = _parent(name)
        if over not in joints:
            continue
        seen = (joints[name] - joints[over]).norm(dim=-1)
        seen = seen[~seen.isnan()]
        if len(seen):
            bone = _bone(name)
            found[bone] = max(found.get(bone, 0.0), float(seen.quantile(LONG)))
    return {bone: length for bone, length in found.items() if length > 0}


def _moved(joints: Mapping[str, Tensor], wanted: Mapping[str, float]) -> dict[str, Tensor]:
    """One person's joints f 2, each as far from the one it hangs on as ``wanted`` has it."""
    own = lengths(joints)
    if not own:
        return dict(joints)
    factors = {bone: wanted[bone] / own[bone] for bone in own.keys() & wanted.keys()}
    if not factors:
        raise ValueError(
            f"the reference shows none of the bones of the poses ({', '.join(sorted(own))}), so that no "
            "length is known; give a picture of the whole body, or leave pose.retarget out"
        )
    usual = float(torch.tensor(sorted(factors.values())).median())
    before, after, out = {"": _nowhere(joints)}, {"": _nowhere(joints)}, {}
    for name in _from_root(joints):
        over = _parent(name)
        factor = factors.get(_bone(name), usual)
        place = after[over] + factor * (joints[name] - before[over])
        here = torch.where(place.isnan(), joints[name], place)
        gone = joints[name].isnan()
        before[name] = torch.where(gone, before[over], joints[name])
        after[name] = torch.where(gone, after[over], here)
        out[name] = here
    return out


def _nowhere(joints: Mapping[str, Tensor]) -> Tensor:
    return torch.full_like(next(iter(joints.values())), torch.nan)


def _from_root(joints: Mapping[str, Tensor]) -> list[str]:
    """Every joint after the one that it hangs on."""
    return sorted(joints, key=_depth)


def _depth(name: str) -> int:
    return 0 if not name else 1 + _depth(_parent(name))


def _parent(name: str) -> str:
    """The joint that ``name`` hangs on; none for the root."""
    if name in _MIDDLE:
        return _MIDDLE[name]
    side, _, part = name.partition("_")
    over = _SIDE[part]
    return over if over in _MIDDLE else f"{side}_{over}"


def _bone(name: str) -> str:
    return name if name in _MIDDLE else name.partition("_")[2]


def _named(pose: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Joints f p 2 by name, nan where they are missing; with neck and middle of the hips."""
    every = [*names, *(name for name in (ROOT, "neck") if name not in names)]
    found = converted(pose, every)
    places = found[..., :2].masked_fill(missing(found)[..., None], torch.nan)
    return dict(zip(every, places.unbind(2), strict=True))


def _person(joints: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    return {name: places[:, i] for name, places in joints.items()}


def _body(reference: Tensor) -> dict[str, Tensor]:
    """Of the person of whom most joints are seen. Raises ValueError where nobody is."""
    seen = (~missing(reference)).sum((0, 2))
    if not len(seen) or not bool(seen.any()):
        raise ValueError(
            "the reference shows no person, so that no length of a bone is known; give a picture of the "
            "whole body, or its key points as .json"
        )
    who = int(seen.argmax())
    return _person(_named(reference, LAYOUTS[reference.shape[2]]), who)
