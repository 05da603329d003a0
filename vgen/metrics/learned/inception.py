"""Inception features of FID and KID: NVIDIA's TorchScript program, or the state file of torch-fidelity
through that package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vgen.metrics.learned.frames import in_batches
from vgen.metrics.learned.tools import Tools
from vgen.metrics.learned.torchscript import load_program, vectors
from vgen.metrics.learned.weights import Absent, Located, Slot, is_torchscript

INCEPTION = Slot(
    "inception",
    "NVIDIA's inception-2015-12-05.pt (a TorchScript program, with its sha256), or torch-fidelity's "
    "pt_inception-2015-12-05-6726825d.pth",
    is_code=is_torchscript,
)


@dataclass(frozen=True, slots=True)
class Inception:
    """``run`` maps uint8 n 3 h w to n 2048."""

    run: Callable[[Tensor], Tensor]
    kind: str


def inception_ready(tools: Tools) -> None:
    """A plain state file needs torch-fidelity's network around it."""
    path = tools.located(INCEPTION).path
    if not is_torchscript(path) and importlib.util.find_spec("torch_fidelity") is None:
        raise Absent(
            f"{path} needs torch-fidelity's network, which is not installed: install it, or set "
            "learned.inception.path to the program"
        )


def load_inception(located: Located, device: str) -> Inception:
    if is_torchscript(located.path):
        program = load_program(located, device, "inception", "a TorchScript Inception")
        return Inception(lambda x: program(x, return_features=True), "TorchScript program")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = (
        FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(located.path)
        )
        .to(device)
        .eval()
    )
    return Inception(lambda x: net(x)[0], "torch-fidelity")


@torch.inference_mode()
def picture_features(net: Inception, frames: np.ndarray, batch_size: int, device: str) -> np.ndarray:
    """uint8 n h w 3 -> float64 n 2048. The network takes bytes and resizes itself, so nothing is rescaled or
    truncated here."""
    batches = (
        torch.from_numpy(part).permute(0, 3, 1, 2).contiguous().to(device)
        for part in in_batches(frames, batch_size)
    )
    return np.concatenate([vectors(net.run(x), "inception", len(x)) for x in batches])
