"""Fields on the command line: what conditions hear beside words, as clips, pictures, arrays or key points."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgen.conditions.condition import revealed
from vgen.conditions.retargeting import retargeted
from vgen.data.decode import Cut, PaddedCut
from vgen.data.fields import FIELDS
from vgen.data.given import FRAMES, find_field, read_field, read_frames
from vgen.data.native import refuse_unlike
from vgen.formats.adapter import file_sha256
from vgen.methods import VideoModel
from vgen.methods._sampling import Sampling, latent_size
from vgen.spec import Choice, spec

WORDS = frozenset({"caption", "negative", "text", "pooled"})


class Fit(Choice):
    """How a file becomes a square: ``same``, out of its middle, where its aspect is the reference's;
    ``crop``, out of its middle whatever its aspect; ``pad``, all of it between black bars."""

    SAME = "same"
    CROP = "crop"
    PAD = "pad"


@spec
class GivenField:
    """``file`` is the field ``name`` itself, or, if it is to be ``found``, a video that shows it; ``by``
    names the detector where there are several. ``[0:first.png,15:last.png]`` are pictures of some frames by
    their numbers, which count from the end where they are negative. ``retarget`` is a picture, or the key
    points, of the body whose bone lengths a pose is to have. ``fit`` says how a file becomes a square."""

    name: str = ""
    file: str = ""
    found: bool = False
    by: str = ""
    retarget: str = ""
    fit: Fit = Fit.SAME

    def __post_init__(self) -> None:
        names = (*FIELDS, FRAMES)
        self._refuse_nobody()
        if self.name not in names or not self.file:
            raise ValueError(
                f"a field is given by its name and a file, as edges=clip.mp4, got {self.name}={self.file}; "
                f"the names are {', '.join(names)}"
            )
        if self.name == FRAMES and not self.places:
            raise ValueError(
                f"{self.name}={self.file} names no frame; give pictures by the numbers of their frames, as "
                f"{self.name}=[0:first.png,15:last.png]"
            )

    def _refuse_nobody(self) -> None:
        """Raises ValueError where a body is named and there are no key points to have its bones."""
        if self.retarget and (self.name != "pose" or not self.file or self.file.startswith("[")):
            raise ValueError(
                f"pose.retarget={self.retarget} is the body that poses are to have, and there are no key "
                f"points, got {self.name}={self.file}; give pose=FILE.json, or pose.of=VIDEO where they are "
                "to be found"
            )

    @property
    def places(self) -> dict[int, Path]:
        """Pictures by the numbers of their frames, where they are given so."""
        if not (self.file.startswith("[") and self.file.endswith("]")):
            return {}
        pairs = [pair.partition(":") for pair in self.file[1:-1].split(",") if pair.strip()]
        for number, colon, file in pairs:
            if not colon or not re.fullmatch(r"-?\d+", number.strip()) or not file:
                raise ValueError(
                    f"{self.name}={self.file} must name pictures by numbers of frames; write "
                    f"{self.name}=[0:first.png,15:last.png]"
                )
        numbers = [int(number) for number, _, _ in pairs]
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise ValueError(
                f"{self.name}={self.file} names frame {twice[0]} a second time; give each frame one picture"
            )
        return {int(number): Path(file.strip()).expanduser() for number, _, file in pairs}

    @property
    def path(self) -> Path:
        return Path(self.file).expanduser()

    @property
    def body(self) -> Path:
        return Path(self.retarget).expanduser()

    def said(self) -> dict[str, Any]:
        """For the card of what was drawn."""
        files = list(self.places.values()) or [self.path]
        hashes = [_sha256(file) for file in files]
        sha256 = hashes if self.places else hashes[0]
        said = {"name": self.name, "file": self.file, "found": self.found, "sha256": sha256}
        if self.fit is not Fit.SAME:
            said["fit"] = self.fit.value
        if self.retarget:
            said |= {"retarget": self.retarget, "retarget_sha256": _sha256(self.body)}
        return said

    def read(self, cut: Cut, start_seconds: float = 0.0) -> dict[str, Tensor]:
        """1 ...: the axes of a batch of one; beside it which frames count, where not all do."""
        if self.fit is Fit.PAD:
            cut = PaddedCut(**asdict(cut))
        if self.places:
            array, counts = read_frames(self.name, self.places, cut)
            return {self.name: self._first(array), revealed(self.name): torch.from_numpy(counts)[None]}
        if self.found:
            array = find_field(self.name, self.path, cut, start_seconds, self.by)
        else:
            array = read_field(self.name, self.path, cut, start_seconds)
        return {self.name: self._first(self._on_body(array, cut) if self.retarget else array)}

    def _on_body(self, pose: np.ndarray, cut: Cut) -> np.ndarray:
        """``pose`` f p j 3 with the bones of ``retarget``."""
        if pose.ndim != 4 or pose.shape[-1] != 3 or pose.dtype == np.uint8:
            raise ValueError(
                f"pose={self.file} holds pictures of skeletons, whose bones are not known; give key points "
                "as .json, or leave pose.retarget out"
            )
        one = replace(cut, num_frames=1)
        known = self.body.suffix in (".npy", ".json")
        try:
            seen = (
                read_field("pose", self.body, one)
                if known
                else find_field("pose", self.body, one, by=self.by)
            )
            return retargeted(torch.from_numpy(pose), torch.from_numpy(seen)).numpy()
        except ValueError as error:
            raise ValueError(f"pose.retarget={self.retarget}: {error}") from error

    def _first(self, array: np.ndarray) -> Tensor:
        """Channels first, one row."""
        ready = array.dtype == np.uint8 and array.ndim == 4  # pictures, whatever they show
        first = np.moveaxis(array, -1, -3) if ready else FIELDS[self.name].channels_first(array)
        return torch.from_numpy(first.copy())[None]


def _sha256(file: Path) -> str | None:
    return file_sha256(file) if file.is_file() else None


def given_fields(
    given: list[GivenField], video_model: VideoModel, sampling: Sampling, fps: float
) -> dict[str, Tensor]:
    """By name, one row each. Raises ValueError where nothing listens to one, where a condition lacks its
    own, and where a file can't be it."""
    _refuse_unheard(given, video_model)
    _refuse_sparse(given, video_model)
    for name, lacking in _lacking(given, video_model).items():
        raise ValueError(f"the condition {name!r} listens to {', '.join(lacking)}; give {_asked(lacking[0])}")
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
    read = _read(given, cut)
    refuse_unlike({one.name: one.path for one in given if _whole(one)}, size_px)
    return read


def _whole(one: GivenField) -> bool:
    """Whether the aspect of its file matters."""
    return not one.places and (one.fit is Fit.SAME or one.name == "reference")


def fields_of_clip(
    given: list[GivenField],
    video_model: VideoModel,
    file: str,
    cut: Cut,
    start_seconds: float,
    known: Collection[str],
) -> dict[str, Tensor]:
    """The same for the clip ``file`` as it is cut: what is not given, and not ``known`` from elsewhere, is
    found in it."""
    _refuse_unheard(given, video_model)
    _refuse_sparse(given, video_model)
    lacking = {one for fields in _lacking(given, video_model).values() for one in fields} - {*known}
    if lacking and not file:
        raise ValueError(
            f"the method listens to {', '.join(sorted(lacking))}, and there is no clip to find it in; give "
            f"{min(lacking)}=FILE"
        )
    found = [GivenField(name=name, file=file, found=True) for name in sorted(lacking)]
    return _read([*given, *found], cut, start_seconds)


def _read(given: list[GivenField], cut: Cut, start_seconds: float = 0.0) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for one in given:
        out |= one.read(cut, start_seconds)
    return out


def _asked(name: str) -> str:
    """How a person gives a field."""
    if name == FRAMES:
        return f"pictures by the numbers of their frames, as {name}=[0:first.png,15:last.png]"
    return f"{name}=FILE, or {name}.of=VIDEO where it is to be found"


def _heard(video_model: VideoModel) -> set[str]:
    """Fields that conditions and the start read, beside words."""
    return {name for fields in _reads(video_model).values() for name in fields} - WORDS


def _reads(video_model: VideoModel) -> dict[str, Collection[str]]:
    """By condition the fields that it reads, and those of the start."""
    reads: dict[str, Collection[str]] = {n: one.reads() for n, one in video_model.conditions.items()}
    return {**reads, "start": video_model.start.reads()}


def _refuse_unheard(given: list[GivenField], video_model: VideoModel) -> None:
    heard = _heard(video_model)
    for one in given:
        if one.name not in heard:
            raise ValueError(
                f"{one.name}={one.file} is heard by no condition of this checkpoint, which listens to "
                f"{', '.join(sorted(heard)) or 'words alone'}; put what does in stack.{one.name}.file"
            )


def _refuse_sparse(given: list[GivenField], video_model: VideoModel) -> None:
    whole = [one.reads() for one in video_model.conditions.values() if not one.sparse()]
    for one in given:
        if one.places and any(one.name in fields for fields in whole):
            raise ValueError(
                f"{one.name}={one.file} gives some frames, and what hears {one.name} here wants all of "
                f"them; give {one.name}=CLIP, or put a net for sparse frames in stack.sparse.file"
            )


def _lacking(given: list[GivenField], video_model: VideoModel) -> dict[str, list[str]]:
    """By condition that is needed, the fields that nobody gave."""
    heard, named = _heard(video_model), {one.name for one in given}
    out = {}
    for name, reads in _reads(video_model).items():
        fields = [one for one in reads if one in heard - named]
        if fields and name in video_model.needed:
            out[name] = fields
    return out
