"""Fields on the command line: what conditions hear beside words, as clips, pictures, arrays or key points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgen.data.decode import Cut
from vgen.data.fields import FIELDS
from vgen.data.given import find_field, read_field
from vgen.data.native import refuse_unlike
from vgen.formats.adapter import file_sha256
from vgen.methods import VideoModel
from vgen.methods._sampling import Sampling, latent_size
from vgen.spec import spec

WORDS = frozenset({"caption", "negative", "text", "pooled"})


@spec
class GivenField:
    """``file`` is the field ``name`` itself, or, if it is to be ``found``, a video that shows it; ``by``
    names the detector where there are several."""

    name: str = ""
    file: str = ""
    found: bool = False
    by: str = ""

    def __post_init__(self) -> None:
        if self.name not in FIELDS or not self.file:
            raise ValueError(
                f"a field is given by its name and a file, as edges=clip.mp4, got {self.name}={self.file}; "
                f"the names are {', '.join(FIELDS)}"
            )

    @property
    def path(self) -> Path:
        return Path(self.file).expanduser()

    def said(self) -> dict[str, Any]:
        """For the card of what was drawn."""
        sha256 = file_sha256(self.path) if self.path.is_file() else None
        return {"name": self.name, "file": self.file, "found": self.found, "sha256": sha256}

    def read(self, cut: Cut) -> Tensor:
        """1 ...: the axes of a batch of one."""
        if self.found:
            array = find_field(self.name, self.path, cut, by=self.by)
        else:
            array = read_field(self.name, self.path, cut)
        ready = array.dtype == np.uint8 and array.ndim == 4  # pictures, whatever they show
        first = np.moveaxis(array, -1, -3) if ready else FIELDS[self.name].channels_first(array)
        return torch.from_numpy(first.copy())[None]


def given_fields(
    given: list[GivenField], video_model: VideoModel, sampling: Sampling, fps: float
) -> dict[str, Tensor]:
    """By name, one row each. Raises ValueError where nothing listens to one, where a condition lacks its
    own, and where a file can't be it."""
    reads = {name: one.reads() for name, one in video_model.conditions.items()}
    reads["start"] = video_model.start.reads()
    heard = {field for fields in reads.values() for field in fields} - WORDS
    named = [one.name for one in given]
    for one in given:
        if one.name not in heard:
            raise ValueError(
                f"{one.name}={one.file} is heard by no condition of this checkpoint, which listens to "
                f"{', '.join(sorted(heard)) or 'words alone'}; put what does in stack.{one.name}.file"
            )
    for name, fields in reads.items():
        lacking = [field for field in fields if field in heard and field not in named]
        if lacking and name in video_model.needed:
            raise ValueError(
                f"the condition {name!r} listens to {', '.join(lacking)}; give {lacking[0]}=FILE, or "
                f"{lacking[0]}.of=VIDEO where it is to be found"
            )
    if not given:
        return {}
    height, width = latent_size(video_model.model, sampling)
    if height != width:
        raise ValueError(
            "fields are read from files as squares, got clips of "
            f"{width * video_model.model.vae_factor} x {height * video_model.model.vae_factor} px; set "
            "sampling.width_px and sampling.height_px alike"
        )
    size_px = height * video_model.model.vae_factor
    cut = Cut(fps=fps, num_frames=sampling.num_frames, size_px=size_px)
    read = {one.name: one.read(cut) for one in given}
    refuse_unlike({one.name: one.path for one in given}, size_px)
    return read
