"""A file written tensor by tensor is a safetensors file, and no more than one tensor is whole at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vgen.formats.tensor_file import Entry, hashed, num_bytes, write

TENSORS = {
    "matrix": torch.arange(12.0).reshape(3, 4).T,
    "half": torch.linspace(-1, 1, 5).bfloat16(),
    "scalar": torch.tensor(7.5, dtype=torch.float64),
    "none": torch.empty(0, 3),
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "counts": torch.tensor([1, 2, 3]),
}


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    written = write(tmp_path / "a.safetensors", {name: Entry.of(value) for name, value in TENSORS.items()})
    found = load_file(tmp_path / "a.safetensors")
    assert set(found) == set(TENSORS)
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert written == hashed(tmp_path / "a.safetensors")
    payload = (tmp_path / "a.safetensors").read_bytes()
    assert (written.num_bytes, written.sha256) == (len(payload), hashlib.sha256(payload).hexdigest())


def test_an_empty_shelf_is_a_file_too(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {})
    assert load_file(tmp_path / "a.safetensors") == {}


def test_a_tensor_is_fetched_when_its_turn_comes(tmp_path: Path) -> None:
    """The order of fetching is a protocol: on several processes every fetch is a collective."""
    fetched: list[int] = []

    def fetch(index: int) -> torch.Tensor:
        fetched.append(index)
        return torch.full((4,), float(index))

    shelf = {str(i): Entry(torch.float32, (4,), lambda i=i: fetch(i)) for i in (2, 0, 1)}
    assert num_bytes(shelf) == 3 * 4 * 4
    assert not fetched
    write(tmp_path / "a.safetensors", shelf)
    assert fetched == [2, 0, 1]


def test_values_are_of_the_announced_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tensor a has shape \(3,\), announced was \(4,\)"):
        write(tmp_path / "a.safetensors", {"a": Entry(torch.float32, (4,), lambda: torch.zeros(3))})
