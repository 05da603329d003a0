"""Networks that come as TorchScript programs. Loading one runs its code: ``locate`` has refused any whose
sha256 was not declared."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vgen.metrics.learned.weights import Located, is_torchscript


def load_program(located: Located, device: str, name: str, what: str) -> Any:
    if not is_torchscript(located.path):
        raise ValueError(
            f"{name}.path={located.path} must be {what}, got a file that is no TorchScript program"
        )
    with (
        warnings.catch_warnings()
    ):  # TorchScript is deprecated; the published networks exist in no other form
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(located.path, map_location=device).eval()


def vectors(features: Tensor, name: str, num: int) -> np.ndarray:
    """Features as float64 n d. Raises ValueError where the network answers with something else, such as a map
    for a larger picture."""
    if features.ndim != 2 or len(features) != num:
        shape = " ".join(map(str, features.shape))
        raise ValueError(
            f"{name} must give one vector for each of its {num} inputs, got shape {shape}; the file is "
            "another network"
        )
    return features.double().cpu().numpy()
