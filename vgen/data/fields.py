"""Fields: what a sample may hold beside video and caption, and how each lies in a shard, is cut and mirrored.

A field's member is ``key.NAME.FORMAT``, such as ``key.pose.npy``. docs: data/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from vgen.data.bounded import read_json, read_npy, read_picture, write_npy
from vgen.data.mp4 import decode_mp4
from vgen.data.pose import flaw, from_lists, mirrored

_PICTURES = {"png": "PNG", "jpg": "JPEG"}


def _sound(array: np.ndarray) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One kind of condition.

    ``axes`` are those of the stored array: letters are sizes of its own, digits are fixed; a field whose axes
    begin with ``f`` has a frame axis. ``formats`` are the endings it is read from. ``between`` marks what
    joins each frame to the next: f-1 entries, or f of which the last leads out of the clip. ``reflect``
    mirrors an array of these axes; None where that can't be done. ``flaw`` says what else is wrong with an
    array; empty where nothing is.
    """

    name: str
    axes: str
    dtype: type[np.generic]
    formats: tuple[str, ...] = ("npy",)
    between: bool = False
    reflect: Callable[[np.ndarray], np.ndarray] | None
    flaw: Callable[[np.ndarray], str] = _sound

    @property
    def per_frame(self) -> bool:
        return self.axes.startswith("f")

    @property
    def still(self) -> bool:
        """Whether one entry may hold for every frame, as a picture in place of a video does."""
        return self.per_frame and any(form in _PICTURES for form in self.formats)

    def over(self, array: np.ndarray, num_frames: int) -> np.ndarray:
        """The array of a video of at least ``num_frames``: one entry that holds for all becomes as many (a
        view)."""
        if self.still and len(array) == 1:
            return np.broadcast_to(array, (num_frames, *array.shape[1:]))
        return array

    @property
    def extensions(self) -> tuple[str, ...]:
        """What follows the key in the names of its members, the preferred one first."""
        return tuple(f"{self.name}.{form}" for form in self.formats)

    def decode(self, payload: bytes, where: str) -> np.ndarray:
        """The stored array of the member ``where``, whose ending says its format.

        Raises ValueError with the member's name where it is too large, damaged, or not as the field's law
        says.
        """
        try:
            array = self._read(payload, where.rsplit(".", 1)[-1])
        except ValueError as error:
            raise ValueError(f"{where} can't be read: {error}") from error
        self.check(array, where)
        return array

    def encode(self, array: np.ndarray) -> tuple[str, bytes]:
        """Extension and bytes of a member; :meth:`decode` is the inverse."""
        self.check(array, self.name)
        return f"{self.name}.npy", write_npy(array)

    def check(self, array: np.ndarray, where: str) -> None:
        """Raises ValueError where ``array`` is not what a stored one must be."""
        named = self.axes.split()
        sizes = array.shape[1:] if self.between else array.shape
        fits = array.ndim == len(named) and all(
            size == int(name) for name, size in zip(named, array.shape, strict=True) if name.isdigit()
        )
        if array.dtype != self.dtype or not fits or 0 in sizes:
            raise ValueError(
                f"{where} must be {np.dtype(self.dtype)} {self.axes}, got {array.dtype} {array.shape}; write "
                "it again in that type and shape"
            )
        if wrong := self.flaw(array):
            raise ValueError(f"{where}: {wrong}")

    def cut(self, array: np.ndarray, frames: slice) -> np.ndarray:
        """What belongs to the video's ``frames``, a slice with both ends. Without a frame axis: all of it.

        Of n frames a field between frames has n-1 entries. Raises ValueError where these are not neighbours:
        motion over several frames is not the sum of its parts where things are hidden.
        """
        if not self.per_frame:
            return array
        if not self.between:
            return array[frames]
        if frames.step not in (None, 1):
            raise ValueError(
                f"{self.name} leads from each frame to the next, so it can't be cut at stride {frames.step}; "
                f"set data.window.stride_frames=1 and data.window.coarse_share=0, or leave {self.name} out"
            )
        return array[frames.start : max(frames.start, frames.stop - 1)]

    def mirror(self, array: np.ndarray) -> np.ndarray:
        """The field of the mirrored video; its own inverse. Raises ValueError where that can't be known."""
        if self.reflect is None:
            raise ValueError(
                f"{self.name} can't be mirrored; set data.window.flip=false, or leave {self.name} out"
            )
        return self.reflect(array)

    def channels_first(self, array: np.ndarray) -> np.ndarray:
        """Pictures with channels as models take them: ``f c h w``; everything else as it is stored."""
        return np.moveaxis(array, -1, -3) if " h w " in self.axes else array

    def _read(self, payload: bytes, form: str) -> np.ndarray:
        if form not in self.formats:
            raise ValueError(f"{self.name} is read from .{' .'.join(self.formats)}, got .{form}")
        match form:
            case "npy":
                return read_npy(payload)
            case "json":
                return from_lists(read_json(payload))
            case "mp4":
                return decode_mp4(payload)
            case _:
                return read_picture(payload, _PICTURES[form], grey=self.axes.endswith("h w"))[None]


def _across(array: np.ndarray) -> np.ndarray:
    """``... h w`` from right to left."""
    return array[..., ::-1]


def _across_colours(array: np.ndarray) -> np.ndarray:
    """``... h w c`` from right to left."""
    return array[..., ::-1, :]


def _against(flow: np.ndarray) -> np.ndarray:
    """``f h w 2``: from right to left, and what went right goes left."""
    return flow[..., ::-1, :] * np.array([-1, 1], flow.dtype)


VIDEO = Field(name="video", axes="f h w 3", dtype=np.uint8, formats=("npy", "mp4"), reflect=_across_colours)
"""The video itself, whose members are ``key.npy`` and ``key.mp4``."""

_ALL = (
    Field(
        name="pose",
        axes="f p j 3",
        dtype=np.float32,
        formats=("npy", "json"),
        reflect=mirrored,
        flaw=flaw,
    ),
    Field(name="flow", axes="f h w 2", dtype=np.float32, between=True, reflect=_against),
    Field(name="depth", axes="f h w", dtype=np.float32, reflect=_across),
    Field(name="edges", axes="f h w", dtype=np.uint8, formats=("npy", "png"), reflect=_across),
    Field(name="scribble", axes="f h w", dtype=np.uint8, formats=("npy", "png"), reflect=_across),
    Field(name="mask", axes="f h w", dtype=np.uint8, formats=("npy", "png"), reflect=_across),
    Field(name="control", axes="f h w 3", dtype=np.uint8, formats=("npy", "mp4"), reflect=_across_colours),
    Field(name="source", axes="f h w 3", dtype=np.uint8, formats=("npy", "mp4"), reflect=_across_colours),
    Field(
        name="reference",
        axes="n h w 3",
        dtype=np.uint8,
        formats=("npy", "png", "jpg"),
        reflect=_across_colours,
    ),
    Field(
        name="background",
        axes="n h w 3",
        dtype=np.uint8,
        formats=("npy", "png", "jpg"),
        reflect=_across_colours,
    ),
    Field(name="latents", axes="f c h w", dtype=np.float16, reflect=None),
)
FIELDS = {field.name: field for field in _ALL}
"""Every field by name. flow is in pixels, from a frame to the next; latents are scaled as the UNet takes
them."""
NAMES = ("caption", "video", *FIELDS)


def extensions(name: str) -> tuple[str, ...]:
    """Endings of the members that hold ``name``, the preferred one first."""
    match name:
        case "caption":
            return ("txt",)
        case "video":
            return VIDEO.formats
        case _:
            return FIELDS[name].extensions


@dataclass(frozen=True, slots=True)
class Needs:
    """What is read of every sample, by names of :data:`NAMES`: what it must have, and what it may have."""

    required: frozenset[str] = frozenset({"caption", "video"})
    optional: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = sorted((self.required | self.optional) - set(NAMES))
        if unknown:
            raise ValueError(f"fields are {', '.join(NAMES)}, got {', '.join(unknown)}")

    @property
    def names(self) -> list[str]:
        """All of them, in one order everywhere."""
        return [name for name in NAMES if name in self.required | self.optional]

    def members(self, present: Collection[str]) -> dict[str, str]:
        """The extension to read, by name, of those that a sample has."""
        found = {name: [e for e in extensions(name) if e in present] for name in self.names}
        return {name: there[0] for name, there in found.items() if there}

    def lacking(self, present: Collection[str]) -> list[str]:
        """Required names that a sample with these extensions has not."""
        there = self.members(present)
        return [name for name in self.names if name in self.required and name not in there]

    def unread(self, present: Iterable[str]) -> list[str]:
        """Extensions that stay closed: of other fields, second formats of one field, and unknown ones."""
        present = list(present)
        taken = {"json", *self.members(present).values()}
        return [e for e in present if e not in taken]


EVERYTHING = Needs(optional=frozenset(FIELDS))
"""Video and caption, and every field that is there."""
