"""Fields that a person has as files beside a video: ``dance.pose.json`` and ``dance.depth.mp4`` of
``dance.mp4``.

Clips are cut as the video is, a picture holds for all of it, and what has entries of its own (key points, an
array, a folder of pictures) has one for each frame of the video's file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.bounded import read_json
from vgen.data.decode import SLACK_SECONDS, Cut
from vgen.data.fields import FIELDS
from vgen.data.given import read_field
from vgen.data.pose import FARTHEST, from_lists, of_people

_NO_FILES = ("flow", "latents")
"""Motion from a frame of the file to the next is not motion between the frames of a clip; latents are not
of a video but of an image model."""
_NAMES = frozenset(FIELDS) - frozenset(_NO_FILES)


class Given:
    """Which files beside the videos hold fields, by the folders that the videos lie in."""

    def __init__(self, videos: Iterable[Path]) -> None:
        videos = list(videos)
        self._files: dict[Path, dict[str, str]] = {file.with_suffix(""): {} for file in videos}
        for folder in {file.parent for file in videos}:
            for path in sorted(folder.iterdir()):
                self._take(path)
        self.fields = tuple(sorted({name for found in self._files.values() for name in found}))
        self._own = {path for found in self._files.values() for path in found.values()}

    def __contains__(self, file: Path) -> bool:
        """Whether a file is a field of a video, and no video itself."""
        return str(file.absolute()) in self._own

    def of(self, video: Path) -> dict[str, str]:
        """The file of each field that any video has; nothing where this one has none."""
        own = self._files[video.with_suffix("")]
        return {name: own.get(name, "") for name in self.fields}

    def _take(self, path: Path) -> None:
        """Note a file under its video; one with a caption of its own is a video."""
        if _NAMES.isdisjoint(path.name.split(".")) or path.with_suffix(".txt").is_file():
            return
        stem, _, name = (path.name if path.is_dir() else path.stem).rpartition(".")
        found = self._files.get(path.with_name(stem)) if stem else None
        if found is None or name not in _NAMES:
            return
        if name in found:
            raise ValueError(f"{found[name]} and {path.name} are both {name} of {stem}; keep one of them")
        found[name] = str(path.absolute())


def read_beside(name: str, path: Path, cut: Cut, clip: Mapping[str, Any]) -> np.ndarray:
    """The field of one clip, whose metadata says where in the video it begins, how fast the video is and of
    which shape; in the axes in which it is stored.

    Raises ValueError where it is shorter than the video, or says nothing of the field.
    """
    if not (path.is_dir() or path.suffix in (".json", ".npy")):
        return read_field(name, path, cut, clip["start_seconds"])
    entries: Any = _entries(path)
    if FIELDS[name].per_frame:
        entries = _at(entries, _places(cut, clip), path)
    if path.suffix == ".npy":
        return _of_its_size(np.asarray(entries), name, path, cut)
    if name == "pose":
        return _in_the_square(_pose(entries, clip), clip["aspect"])
    one = Cut(fps=cut.fps, num_frames=1, size_px=cut.size_px)
    return np.concatenate([read_field(name, file, one) for file in entries])


def _entries(path: Path) -> Any:
    """One for each frame: numbers, key points, or files, whose names are in the order of time."""
    match path.suffix:
        case ".npy" if not path.is_dir():
            return np.load(path, mmap_mode="r", allow_pickle=False)
        case ".json" if not path.is_dir():
            read = read_json(path.read_bytes())
            return [read] if isinstance(read, dict) else read
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    if all(file.suffix == ".json" for file in files):
        return [read_json(file.read_bytes()) for file in files]
    return files


def _places(cut: Cut, clip: Mapping[str, Any]) -> list[int]:
    """The frame of the file that each frame of a clip is: the one that is seen at its time."""
    begins, fps = clip["start_seconds"], clip["source_fps"]
    times = (begins + number / cut.fps for number in range(cut.num_frames))
    return [math.floor((time + SLACK_SECONDS) * fps) for time in times]


def _at(entries: Any, places: list[int], path: Path) -> Any:
    if not hasattr(entries, "__len__") or len(entries) <= places[-1]:
        num = len(entries) if hasattr(entries, "__len__") else 0
        raise ValueError(
            f"{path.name} has {num} entries, and frame {places[-1]} of the video is needed; give one for "
            "each of its frames"
        )
    return entries[places] if isinstance(entries, np.ndarray) else [entries[place] for place in places]


def _of_its_size(array: np.ndarray, name: str, path: Path, cut: Cut) -> np.ndarray:
    """An array as it is given: its pictures have to be cut already."""
    sizes = array.shape[1:3] if " h w" in FIELDS[name].axes else ()
    if sizes not in ((), (cut.size_px, cut.size_px)):
        raise ValueError(
            f"{path.name} has pictures of {sizes[1]} x {sizes[0]} px, clips are {cut.size_px} px square; "
            "give a clip or pictures, which are cut as the video is"
        )
    return array.astype(FIELDS[name].dtype)


def _pose(frames: list[Any], clip: Mapping[str, Any]) -> np.ndarray:
    """Lists of joints, or OpenPose's people, whose pixels are those of the video where it does not say of
    which picture they are."""
    people = [person for frame in frames if isinstance(frame, list) for person in frame]
    if people and not isinstance(people[0], dict):
        return from_lists(frames)
    try:
        return of_people(frames)
    except ValueError:
        size = {"canvas_width": clip["source_width_px"], "canvas_height": clip["source_height_px"]}
        return of_people([size | (f if isinstance(f, dict) else {"people": f}) for f in frames])


def _in_the_square(pose: np.ndarray, aspect: float) -> np.ndarray:
    """Shares of a picture's width and height as those of the square in its middle; joints far outside are
    missing."""
    out = pose.copy()
    out[..., 0] = (pose[..., 0] - 0.5) * max(aspect, 1) + 0.5
    out[..., 1] = (pose[..., 1] - 0.5) * max(1 / aspect, 1) + 0.5
    out[np.abs(out[..., :2] - 0.5).max(-1) > 0.5 + FARTHEST] = np.nan
    return out
