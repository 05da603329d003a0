"""One video file (or picture) as the clip that a run is about."""
from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vgen.data.decode import Cut, clips
from vgen.data.ledger import Rejected
from vgen.data.sample import Sample


def read_clip(path: str | Path, cut: Cut, start_seconds: float = 0.0) -> np.ndarray:
    """The first ``cut.num_frames`` frames from ``start_seconds`` on, uint8 f h w 3, square. A picture gives one frame.

    Raises ValueError, with the file's name, where it is no sound video, or shorter than asked.
    """
    path = Path(path).expanduser()
    if start_seconds < 0:
        raise ValueError(f"start_seconds must not be negative, got {start_seconds}")
    picture = _picture(path, cut.size_px)
    if picture is not None:
        if cut.num_frames != 1:
            raise ValueError(
                f"{path} is a picture, and {cut.num_frames} frames were asked for; give a video, or num_frames=1 to edit the picture"
            )
        return picture[None]
    skipped = round(start_seconds * cut.fps)
    try:
        whole = next(clips(path, Cut(fps=cut.fps, num_frames=skipped + cut.num_frames, size_px=cut.size_px))).video
    except Rejected as error:
        raise ValueError(
            f"{path} can't be used, {error.reason.value} ({error.detail}); "
            "give a longer or sound video, fewer num_frames, or another fps"
        ) from error
    return whole[skipped:]


def _picture(path: Path, size_px: int) -> np.ndarray | None:
    """Short side to ``size_px``, centre crop; None where the file is no still picture."""
    if not path.is_file():
        raise ValueError(f"video={path} is no file; give a video, or a picture for num_frames=1")
    try:
        with Image.open(path) as file:
            if getattr(file, "n_frames", 1) > 1:
                return None
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)))


class OneClip:
    """A clip with its caption as a sequence of one sample: what one-shot tuning trains on."""

    def __init__(self, video: np.ndarray, caption: str, fps: float) -> None:
        self.sample = Sample("clip", video, caption, {"fps": fps})
        self.content_hash = hashlib.blake2b(video.tobytes() + caption.encode(), digest_size=16).hexdigest()
        user = os.getuid() if hasattr(os, "getuid") else "user"  # people of one node may tune on the same clip, and not write to each other's folders
        self.folder = Path(tempfile.gettempdir()) / f"vgen-clip-{user}-{self.content_hash}"  # of its caches: the same for all ranks of a node

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> Sample:
        if i not in (0, -1):
            raise IndexError(f"sample {i} of 1")
        return self.sample
