"""A field that a person has as files: a clip, a picture, a folder of pictures, an array or key points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vgen.data.bounded import read_json
from vgen.data.decode import Cut
from vgen.data.detectors import detector
from vgen.data.fields import FIELDS
from vgen.data.one_clip import bits_of, read_clip, still_picture
from vgen.data.pose import of_people, on_square

FRAMES = "frames"
"""A clip's own frames where some of them are given. No shard holds them: a training takes them of its
clips."""
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def read_field(name: str, path: Path, cut: Cut, start_seconds: float = 0.0) -> np.ndarray:
    """The field ``name`` of ``cut.num_frames`` frames from ``path``, in the axes in which it is stored; a
    pose that comes as pictures is uint8 f h w 3.

    ``.npy`` and ``.json`` hold arrays, everything else is looked at: white is an edge, bright is near. Raises
    ValueError where it is shorter, or says nothing of this field.
    """
    if name not in FIELDS:
        raise ValueError(f"fields are {', '.join(FIELDS)}, got {name}={path}")
    if not path.exists():
        raise ValueError(f"{name}={path} is no file and no folder; give a clip, a picture, .npy or .json")
    if path.is_dir():
        array = _folder(name, path, cut)
    elif path.suffix in (".npy", ".json"):
        array = _array(name, path, cut)
    else:
        _refuse_measures(name, path)
        array = of_pictures(name, _pictures(path, cut, start_seconds), path)
    if name == "reference" and (array == array[:, :1, :1]).all():
        raise ValueError(
            f"reference={path} shows nothing, all its pixels have one colour; give a picture of what is to "
            "be "
            "drawn"
        )
    return _long_enough(name, array, path, cut.num_frames)


def read_frames(name: str, places: Mapping[int, Path], cut: Cut) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of some frames as the field ``name``, zeros at the others, and which they are, bool f.

    Raises ValueError where a number is none of the clip's frames or one that was named, or a file no picture.
    """
    counts = np.zeros(cut.num_frames, bool)
    out: np.ndarray | None = None
    for number, path in places.items():
        if not -cut.num_frames <= number < cut.num_frames:
            raise ValueError(
                f"{name}=[{number}:{path}] names frame {number}, and the clip has {cut.num_frames}, 0 to "
                f"{cut.num_frames - 1}; give one of these, or more frames by sampling.num_frames"
            )
        if counts[number]:
            raise ValueError(
                f"{name}=[{number}:{path}] names frame {number % cut.num_frames} a second time; give each "
                "frame one picture"
            )
        picture = still_picture(path, cut.size_px, cut.pads) if path.is_file() else None
        _refuse_measures(name, path)
        if picture is None:
            raise ValueError(f"{name}=[{number}:{path}] is no picture; give .png, .jpg or .webp for a frame")
        array = picture[None] if name == FRAMES else of_pictures(name, picture[None], path)
        out = np.zeros((cut.num_frames, *array.shape[1:]), array.dtype) if out is None else out
        out[number], counts[number] = array[0], True
    assert out is not None  # the caller's
    return out, counts


def find_field(name: str, path: Path, cut: Cut, start_seconds: float = 0.0, by: str = "") -> np.ndarray:
    """The field ``name`` as it is found in the clip or picture at ``path``; ``by`` names the detector.

    Raises ValueError where there is no such file, or nothing that finds the field.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a video or a picture, in which {name} is looked for")
    seen = detector(name, by)
    array = seen.see(_pictures(path, cut, start_seconds))
    return _long_enough(name, array, path, cut.num_frames)


def of_pictures(name: str, video: np.ndarray, path: Path) -> np.ndarray:
    """What pictures uint8 f h w 3 say of a field."""
    kinds: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "f h w": _grey,
        "f h w 3": _as_it_is,
        "n h w 3": _as_it_is,
    }
    if name == "pose":
        return video
    if name == "depth":
        return 255 - _grey(video).astype(np.float32)
    if FIELDS[name].axes not in kinds:
        raise ValueError(
            f"{name}={path} is a picture or a clip, and colours do not say {name}; give {name}=FILE.npy, "
            f"{np.dtype(FIELDS[name].dtype)} {FIELDS[name].axes}"
        )
    return kinds[FIELDS[name].axes](video)


def _refuse_measures(name: str, path: Path) -> None:
    """Raises ValueError for a depth picture of more than 8 bits a pixel: sensors write distances in such, of
    which the near ones are dark, and depth models nearness."""
    if name != "depth" or path.suffix.lower() not in (*_PICTURES, ".tif", ".tiff"):
        return
    bits = bits_of(path)
    if bits > 8:
        raise ValueError(
            f"depth={path} has {bits} bits a pixel, which may be distances, of which the near ones are dark, "
            "or nearness; give distances in any unit as FILE.npy, float32 f h w, or a picture of 8 bits "
            "where bright is near"
        )


def _grey(video: np.ndarray) -> np.ndarray:
    return (video @ _GREY).round().astype(np.uint8)


def _as_it_is(video: np.ndarray) -> np.ndarray:
    return video


def _pictures(path: Path, cut: Cut, start_seconds: float) -> np.ndarray:
    """uint8 f h w 3 of a clip; a picture is one frame."""
    picture = still_picture(path, cut.size_px, cut.pads)
    return read_clip(path, cut, start_seconds) if picture is None else picture[None]


def _folder(name: str, folder: Path, cut: Cut) -> np.ndarray:
    """Pictures or key points of one frame each, in the order of their names."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (*_PICTURES, ".json"))
    if not files:
        raise ValueError(f"{name}={folder} holds no pictures and no .json; one file a frame is read")
    if name == "pose" and files[0].suffix == ".json":
        return _on_square([_json(file) for file in files if file.suffix == ".json"], cut)
    for file in files[: cut.num_frames]:
        _refuse_measures(name, file)
    one = replace(cut, num_frames=1)
    frames = [_pictures(file, one, 0.0) for file in files[: cut.num_frames]]
    return of_pictures(name, np.concatenate(frames), folder)


def _array(name: str, path: Path, cut: Cut) -> np.ndarray:
    if path.suffix == ".json" and name == "pose":
        data = _json(path)
        if isinstance(data, dict) or (data and isinstance(data[0], dict)):
            return _on_square(data if isinstance(data, list) else [data], cut)
    array = FIELDS[name].decode(path.read_bytes(), f"{name}={path}")
    _refuse_size(name, array, path, cut.size_px)
    return array


def _refuse_size(name: str, array: np.ndarray, path: Path, size_px: int) -> None:
    """Raises ValueError where an array of one picture a frame is not as large as the clip."""
    kind = FIELDS[name]
    if not kind.per_frame or " h w" not in kind.axes:
        return
    height, width = kind.channels_first(array).shape[-2:]
    if (height, width) != (size_px, size_px):
        raise ValueError(
            f"{name}={path} has pictures of {width} x {height} px where the clip has {size_px} x {size_px}; "
            "write them again as large as the clip"
        )


def _on_square(frames: list[Any], cut: Cut) -> np.ndarray:
    """A pose in shares of the square that a video would be cut to."""
    return on_square(of_people(frames), frames, cut.pads)


def _json(path: Path) -> Any:
    try:
        return read_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _long_enough(name: str, array: np.ndarray, path: Path, num_frames: int) -> np.ndarray:
    """Its first frames; one that holds for all becomes as many. Raises ValueError where there are fewer, or
    nothing was found."""
    kind = FIELDS[name]
    if not kind.per_frame:
        if not len(array):
            raise ValueError(f"{name} is not found in {path}, which is a still; give {name}=FILE, or a clip")
        return array
    array = kind.over(array, num_frames)
    least = num_frames - 1 if kind.between else num_frames
    if len(array) < least:
        raise ValueError(
            f"{name}={path} has {len(array)} frame{'s' * (len(array) != 1)} where {num_frames} are needed; "
            f"give a longer one, or ask for fewer frames, {len(array) + kind.between}"
        )
    return array[:num_frames]
