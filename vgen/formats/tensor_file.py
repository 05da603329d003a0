"""A safetensors file that is written one tensor after another, and hashed as it is written.

The library's own writer holds all tensors in memory. Here a tensor is asked for when its turn comes, so that
what lies in parts on many processes is whole one tensor at a time. Files are read by the library.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
_BLOCK = 2**24
"""Bytes that are hashed while they are still in a processor's cache or near it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of known kind whose values are fetched when they are needed."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fetch: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @staticmethod
    def of(value: Tensor) -> Entry:
        return Entry(value.dtype, tuple(value.shape), lambda: value)


Shelf = dict[str, Entry]
"""Entries by name, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a file has to be, byte for byte."""

    num_bytes: int
    sha256: str


def write(path: Path, shelf: Mapping[str, Entry]) -> Written:
    """Fetch and write every entry, in order. The caller flushes the file to the disk: while it writes more
    files, the system does so already."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        for block in _blocks(shelf):
            hashing = beside.submit(digest.update, block)  # hashing and writing both leave Python alone
            file.write(block)
            hashing.result()
            num_bytes += len(block)
    return Written(num_bytes, digest.hexdigest())


def hashed(path: Path) -> Written:
    """What the file is."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            num_bytes += len(block)
    return Written(num_bytes, digest.hexdigest())


def num_bytes(shelf: Mapping[str, Entry]) -> int:
    """What the values of a shelf take."""
    return sum(entry.num_bytes for entry in shelf.values())


def _blocks(shelf: Mapping[str, Entry]) -> Iterator[bytes | memoryview]:
    header = json.dumps(_header(shelf), separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    yield len(header).to_bytes(8, "little") + header
    for name, entry in shelf.items():
        value = entry.fetch()
        if tuple(value.shape) != entry.shape:
            raise ValueError(f"tensor {name} has shape {tuple(value.shape)}, announced was {entry.shape}")
        yield from _pieces(value.detach().to("cpu", entry.dtype))


def _header(shelf: Mapping[str, Entry]) -> dict[str, Any]:
    header: dict[str, Any] = {}
    start = 0
    for name, entry in shelf.items():
        end = start + entry.num_bytes
        header[name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [start, end],
        }
        start = end
    return header


def _pieces(value: Tensor) -> Iterable[memoryview]:
    if value.numel() == 0:
        return
    flat: Any = value.contiguous().flatten().view(torch.uint8).numpy()
    data = memoryview(flat)
    for start in range(0, len(data), _BLOCK):
        yield data[start : start + _BLOCK]
