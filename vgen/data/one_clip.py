"""One video file (or picture) as the clip that a run is about."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vgen.data.bounded import opened
from vgen.data.decode import Cut, Facts, centred, clips, facts_of, padded
from vgen.data.detectors import FOUND, detector
from vgen.data.fields import Needs
from vgen.data.ledger import Rejected
from vgen.data.sample import Sample

_BITS = {"I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
"""Of the modes in which Pillow opens a picture, where they are not 8."""


def read_clip(
    path: str | Path, cut: Cut, start_seconds: float = 0.0, size: tuple[int, int] | None = None
) -> np.ndarray:
    """The first ``cut.num_frames`` frames from ``start_seconds`` on, uint8 f h w 3, of ``size`` (height,
    width) where it is given, else square. A picture gives one frame.

    Raises ValueError, with the file's name, where it is no sound video, or shorter than asked.
    """
    path = Path(path).expanduser()
    if start_seconds < 0:
        raise ValueError(f"start_seconds must not be negative, got {start_seconds}")
    image = still_image(path)
    if image is not None:
        if cut.num_frames != 1:
            raise ValueError(
                f"{path} is a picture, and {cut.num_frames} frames were asked for; give a video, or "
                "num_frames=1 to edit the picture"
            )
        if size is not None:
            return _framed(image, size)[None]
        return (np.asarray(padded(image, cut.size_px)) if cut.pads else squared(image, cut.size_px))[None]
    skipped = round(start_seconds * cut.fps)
    try:
        return next(clips(path, cut, skipped, size=size)).video
    except Rejected as error:
        raise ValueError(
            f"{path} can't be used, {error.reason.value} ({error.detail}); "
            "give a longer or sound video, fewer num_frames, or another fps"
        ) from error


def source_facts(path: str | Path) -> Facts:
    """The aspect and rate of a clip; a picture has the rate 0.

    Raises ValueError, with the file's name, where it is neither.
    """
    path = Path(path).expanduser()
    image = still_image(path)
    if image is not None:
        return Facts(image.width / image.height, 0.0)
    try:
        return facts_of(path)
    except Rejected as error:
        raise ValueError(
            f"{path} can't be used, {error.reason.value} ({error.detail}); give a sound video"
        ) from error


def still_picture(path: Path, size_px: int, pads: bool = False) -> np.ndarray | None:
    """Short side to ``size_px``, centre crop, or all of it between black bars; None where the file is no
    still picture."""
    image = still_image(path)
    if image is None:
        return None
    return np.asarray(padded(image, size_px)) if pads else squared(image, size_px)


def _framed(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """uint8 h w 3 of ``size`` (height, width): as much of the centre as has these proportions."""
    box = centred(image.size, size[1] / size[0])
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def still_image(path: Path) -> Image.Image | None:
    """A picture in RGB, the way up that its EXIF says, what is transparent on white; None where the file is
    no still picture."""
    if not path.is_file():
        raise ValueError(f"video={path} is no file; give a video, or a picture for num_frames=1")
    try:
        with opened(path) as file:
            if file.format == "GIF" and getattr(file, "n_frames", 1) > 1:
                return None
            return as_rgb(ImageOps.exif_transpose(file))
    except ValueError as error:
        raise ValueError(f"video={path} can't be used: {error}; give a smaller picture") from error
    except (UnidentifiedImageError, OSError, SyntaxError):
        return None


def bits_of(path: Path) -> int:
    """Bits a channel of a picture's pixel; 0 where the file is none."""
    try:
        with opened(path) as file:
            return _BITS.get(file.mode, 8)
    except (ValueError, UnidentifiedImageError, OSError, SyntaxError):
        return 0


def squared(image: Image.Image, size_px: int, place: float = 0.5) -> np.ndarray:
    """uint8 h w 3 of ``size_px`` a side: a square as long as the short side, cut out of the long one at
    ``place``, 0 at its beginning and 1 at its end."""
    side = min(image.size)
    left, top = (int(place * (length - side)) for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))


def as_rgb(image: Image.Image) -> Image.Image:
    """8 bits a colour; what is transparent is white."""
    if image.mode.startswith("I;16"):  # Pillow would cut off what is brighter than 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class OneClip:
    """A clip with its caption as a sequence of one sample: what one-shot tuning trains on. ``fields`` are
    what else is known of it, in the axes in which they are stored."""

    def __init__(
        self, video: np.ndarray, caption: str, fps: float, fields: Mapping[str, np.ndarray] | None = None
    ) -> None:
        more = dict(sorted((fields or {}).items()))
        self.sample = Sample("clip", video, caption, {"fps": fps}, more)
        known = [name.encode() + array.tobytes() for name, array in more.items()]
        self._name(b"".join([video.tobytes(), caption.encode(), *known]))

    def _name(self, content: bytes) -> None:
        """Set the folder of its caches: the same for all ranks of a node, another for each of its people, who
        may tune on the same clip."""
        self.content_hash = hashlib.blake2b(content, digest_size=16).hexdigest()
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self.folder = Path(tempfile.gettempdir()) / f"vgen-clip-{user}-{self.content_hash}"

    def reading(self, needs: Needs) -> OneClip:
        """The same clip, with what is required and can be found in it by the usual detector.

        Raises ValueError where nothing finds it.
        """
        video, caption, fps = self.sample.video, self.sample.caption or "", self.sample.metadata["fps"]
        assert video is not None  # of a single clip
        lacking = needs.required - {"caption", "video", *self.sample.fields}
        more = [name for name in needs.names if name in lacking]
        beyond = [name for name in more if name not in FOUND]
        if beyond:
            raise ValueError(
                f"a single clip has no {' and no '.join(beyond)}, which is required: give "
                f"data.given={{{beyond[0]}: FILE}}, or data.path=FOLDER with shards that have it in place of "
                "data.video"
            )
        found = {name: detector(name).see(video) for name in more}
        return OneClip(video, caption, fps, {**self.sample.fields, **found}) if found else self

    def check(self, rows: Sequence[int]) -> None:
        """Nothing: what may be missing is refused by :meth:`reading`."""

    def key(self, i: int) -> str:
        """The sample's id."""
        return self[i].id

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> Sample:
        if i not in (0, -1):
            raise IndexError(f"sample {i} of 1")
        return self.sample
