"""Checkpoint files are data: read whole, written whole, never executed."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch

from vgen.formats import state_file
from vgen.formats.state_file import Container


class Bomb:
    """Unpickling it makes a file: what a malicious checkpoint would do."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("container", Container)
def test_read_inverts_write(tmp_path, container):
    path, big = tmp_path / f"a.{container.value}", torch.randn(64, 64)
    state = {"a.weight": big[:2], "b.half": torch.randn(3).half(), "c.strided": big.T[:4]}
    state_file.write(path, state, container, {"vgen_card": "{}"})
    back, metadata = state_file.read(path)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[n], v) and back[n].dtype == v.dtype for n, v in state.items())
    assert metadata.get("vgen_card") == ("{}" if container is Container.SAFETENSORS else None)
    assert path.stat().st_size < 5000  # a view's storage stays behind
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"]
)
def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, save):
    path = tmp_path / "evil.ckpt"
    save({"state_dict": {"a": torch.zeros(2)}, "bomb": Bomb(tmp_path / "made")}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=r"cannot be read as plain tensors .* never runs what a checkpoint carries"
        ) as caught:
            state_file.read(path)
    assert "weights_only" not in str(caught.value), "torch's advice is to run it"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors", "a.bin"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"{name} is no file"):
        state_file.read(path)
    state_file.write(
        path,
        {"a": torch.zeros(2000)},
        Container.SAFETENSORS if name.endswith("safetensors") else Container.CKPT,
    )
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(
        ValueError, match=f"{name} (is not a readable safetensors file|cannot be read as plain tensors)"
    ):
        state_file.read(path)


def test_a_lone_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds a Tensor, not a dictionary"):
        state_file.read(tmp_path / "a.pt")
