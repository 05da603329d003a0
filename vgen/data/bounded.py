"""Readers of files in memory: they refuse what is too large before they decode it, and execute nothing."""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from vgen.data.mp4 import MAX_BYTES

TEXT_LIMIT = 1 << 20
"""Bytes of a text or JSON member."""
PIXEL_LIMIT = 1 << 26
"""Pixels of a picture: 8192 x 8192."""
DEEPEST = 64
"""Lists and objects within one another."""


def read_text(payload: bytes) -> str:
    """UTF-8 of at most TEXT_LIMIT bytes."""
    if len(payload) > TEXT_LIMIT:
        raise ValueError(f"it has {len(payload):,} bytes where {TEXT_LIMIT:,} are allowed")
    return payload.decode("utf-8")


def read_json(payload: bytes) -> Any:
    """Plain data. Raises ValueError where it is too large, too deep or no JSON."""
    try:
        found = json.loads(read_text(payload))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    refuse_deep(found)
    return found


def refuse_deep(value: Any) -> None:
    """Raises ValueError where plain data is nested more than DEEPEST times: what walks through it walks
    through as many calls."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} times")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_npy(payload: bytes) -> np.ndarray:
    """An array whose header promises exactly the bytes that follow it, at most MAX_BYTES; never a pickle."""
    try:
        return _read_npy(payload)
    except (OverflowError, TypeError, MemoryError, RecursionError, SyntaxError, TokenError) as error:
        raise ValueError("its header is none that an array has") from error


def _read_npy(payload: bytes) -> np.ndarray:
    file = io.BytesIO(payload)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy versions 1.0 and 2.0 are read, got {version[0]}.{version[1]}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"its header says {dtype} {shape}, which no array has")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which only a pickle could restore")
    promised, there = math.prod(shape) * dtype.itemsize, len(payload) - file.tell()
    if promised > MAX_BYTES:
        raise ValueError(f"its header promises {promised:,} bytes where {MAX_BYTES:,} are allowed")
    if promised != there:
        raise ValueError(f"its header promises {promised:,} bytes and {there:,} follow")
    values = np.frombuffer(payload, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy()


def write_npy(array: np.ndarray) -> bytes:
    """The inverse of :func:`read_npy`."""
    file = io.BytesIO()
    npy.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def read_picture(payload: bytes, kind: str, grey: bool) -> np.ndarray:
    """A ``PNG`` or ``JPEG`` of at most PIXEL_LIMIT pixels: uint8 ``h w`` where ``grey``, else ``h w 3``."""
    try:
        with opened(io.BytesIO(payload), [kind]) as image:
            _check_picture(image, grey)
            return np.array(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"it is damaged, cut off or no {kind}") from error


@contextmanager
def opened(file: IO[bytes] | Path, formats: list[str] | None = None) -> Iterator[Image.Image]:
    """A picture or an animation whose frames have at most PIXEL_LIMIT pixels; none is decoded yet. Raises
    ValueError where they have more, and Pillow's own where it is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=formats)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"it has more than {PIXEL_LIMIT:,} pixels") from error
    with image:
        if image.width * image.height > PIXEL_LIMIT:
            raise ValueError(
                f"it has {image.width:,} x {image.height:,} pixels where {PIXEL_LIMIT:,} are allowed"
            )
        yield image


def _check_picture(image: Image.Image, grey: bool) -> None:
    if image.mode not in (("1", "L") if grey else ("L", "RGB")):
        wanted = "grey with 8 bits" if grey else "RGB or grey with 8 bits, without transparency"
        raise ValueError(f"it must be {wanted}, got a picture of mode {image.mode}")
